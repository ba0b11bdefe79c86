//! Rust text as the rules need it: without comments, literals and tests, lines kept.

/// One function: its name, its line and how many lines of code are in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) code_lines: usize,
}

/// The text with comments and the insides of literals blanked out. Lines stay where they
/// were, so that a finding can name its line.
pub(crate) fn plain(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if starts_word(bytes, at) => raw_string_end(bytes, at).unwrap_or(at),
            b'\'' => char_end(bytes, at).unwrap_or(at),
            _ => at,
        };
        blank(&mut out[at..end]);
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Plain text without `#[cfg(test)]` modules.
pub(crate) fn without_tests(plain: &str) -> String {
    let mut out = plain.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = plain[from..].find("#[cfg(test)]") {
        let start = from + found;
        from = start + 1;
        let Some(open) = plain[start..].find(['{', ';']).map(|open| start + open) else {
            break;
        };
        let is_module = plain[start..open]
            .split_whitespace()
            .any(|word| word == "mod");
        if is_module && plain.as_bytes()[open] == b'{' {
            let end = block_end(plain.as_bytes(), open);
            blank(&mut out[start..end]);
            from = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The lines of code of plain text.
pub(crate) fn code_lines(plain: &str) -> usize {
    plain.lines().filter(|line| !line.trim().is_empty()).count()
}

/// All functions with a body.
pub(crate) fn functions(plain: &str) -> Vec<Function> {
    let bytes = plain.as_bytes();
    let mut found = Vec::new();
    for (at, _) in plain.match_indices("fn ") {
        if !starts_word(bytes, at) {
            continue;
        }
        let name: String = plain[at + 3..]
            .chars()
            .take_while(|c| is_of_name(*c))
            .collect();
        let Some(open) = body(bytes, at).filter(|_| !name.is_empty()) else {
            continue;
        };
        let end = block_end(bytes, open);
        found.push(Function {
            name,
            line: 1 + plain[..at].matches('\n').count(),
            code_lines: code_lines(&plain[open + 1..end.saturating_sub(1).max(open + 1)]),
        });
    }
    found
}

/// Every name in plain text, with its line.
pub(crate) fn names(plain: &str) -> impl Iterator<Item = (usize, &str)> {
    plain.lines().enumerate().flat_map(|(number, line)| {
        line.split(|c| !is_of_name(c))
            .filter(|name| name.starts_with(|c: char| c.is_alphabetic() || c == '_'))
            .map(move |name| (number + 1, name))
    })
}

/// The words of a name: `QuotaFailure` and `quota_failure` are both quota and failure.
pub(crate) fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for letter in name.chars() {
        if letter == '_' || letter.is_uppercase() && was_lower {
            words.push(String::new());
        }
        was_lower = letter.is_lowercase() || letter.is_numeric();
        if letter != '_' {
            words
                .last_mut()
                .expect("never empty")
                .extend(letter.to_lowercase());
        }
    }
    words
}

fn is_of_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn starts_word(bytes: &[u8], at: usize) -> bool {
    at == 0 || !is_of_name(char::from(bytes[at - 1]))
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes[at..].iter().position(|byte| *byte == b'\n');
    rest.map_or(bytes.len(), |rest| at + rest)
}

fn comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut at) = (0, at);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// Just after the quote that ends a string whose inside begins here.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    let inside = at + 1 + hashes;
    if bytes.get(inside) != Some(&b'"') {
        return None;
    }
    let mut ending = vec![b'"'];
    ending.resize(hashes + 1, b'#');
    let rest = bytes[inside + 1..]
        .windows(ending.len())
        .position(|window| window == ending)?;
    Some(inside + 1 + rest + ending.len())
}

/// Just after a character's closing quote; `None` for a lifetime.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let rest = bytes[at + 3..].iter().position(|byte| *byte == b'\'')?;
        return Some(at + 3 + rest + 1);
    }
    // One character is at most four bytes long.
    let near = bytes.get(at + 2..bytes.len().min(at + 6))?;
    let close = near.iter().position(|byte| *byte == b'\'')?;
    let inside = std::str::from_utf8(&bytes[at + 1..at + 2 + close]).ok()?;
    (inside.chars().count() == 1).then_some(at + 2 + close + 1)
}

/// Where the body of the function that is declared at `at` opens; `None` without a body.
fn body(bytes: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (place, byte) in bytes.iter().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(place),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Just after the brace that closes the one at `open`.
fn block_end(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0_i32;
    for (place, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return place + 1;
        }
    }
    bytes.len()
}
