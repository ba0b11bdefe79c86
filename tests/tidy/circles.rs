//! Files of one room that use each other in a circle, which makes them one file in two halves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::rules::{first_names, modules};
use crate::source::{plain, without_tests};

/// A file's modules below its `src`.
type Name = Vec<String>;

/// One line for each use that closes a circle, over files and their texts.
pub(crate) fn circles(files: &[(PathBuf, String)]) -> Vec<String> {
    let names: BTreeSet<Name> = files.iter().map(|(path, _)| modules(path)).collect();
    let uses: BTreeMap<Name, BTreeSet<Name>> = files
        .iter()
        .map(|(path, text)| (modules(path), used_files(path, text, &names)))
        .collect();
    let mut wrong = Vec::new();
    for (user, used) in &uses {
        for other in used.iter().filter(|other| reaches(other, user, &uses)) {
            wrong.push(format!(
                "{} uses {}, which leads back to it",
                user.join("/"),
                other.join("/")
            ));
        }
    }
    wrong
}

/// The files of its own crate that a file uses, as far as two names lead.
fn used_files(path: &Path, text: &str, names: &BTreeSet<Name>) -> BTreeSet<Name> {
    let own = modules(path);
    let Some((_, folder)) = own.split_last() else {
        return BTreeSet::new();
    };
    let code = without_tests(&plain(text));
    let ways = [
        ("super::".to_owned(), folder),
        ("crate::".to_owned(), &[]),
        (format!("crate::{}::", own[0]), &own[..1]),
    ];
    let mut used = BTreeSet::new();
    for (prefix, place) in &ways {
        for (at, _) in code.match_indices(prefix.as_str()) {
            for name in first_names(&code[at + prefix.len()..]) {
                let file = [place.to_vec(), vec![name]].concat();
                if file != own && names.contains(&file) {
                    used.insert(file);
                }
            }
        }
    }
    used
}

fn reaches(from: &Name, to: &Name, uses: &BTreeMap<Name, BTreeSet<Name>>) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(name) = open.pop() {
        if name == to {
            return true;
        }
        if seen.insert(name) {
            open.extend(uses.get(name).into_iter().flatten());
        }
    }
    false
}
