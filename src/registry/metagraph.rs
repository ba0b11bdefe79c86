//! A metagraph: who is registered on the chain, with uid and stake, as a file holds it.
//!
//! ```text
//! [{"hotkey": "5Grw..", "uid": 0, "stake": 1234.5, "validator": true}, ..]      .json
//! hotkey,uid,stake,validator                                                    .csv
//! ```
//!
//! Other fields and columns are passed over. Stakes are read digit by digit, to a billionth,
//! and only ever divided as whole numbers: validators that read one file agree to the unit.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::share::Share;
use crate::identity::hotkey::Hotkey;

/// A chain's subnets have a few hundred entries; this is room for all uids that there are.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Decimals of a stake that count. The chain itself has no more.
const STAKE_DECIMALS: i64 = 9;

/// Who is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metagraph {
    entries: HashMap<Hotkey, Entry>,
    /// The stakes of all validators, billionths.
    staked: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    uid: u16,
    /// Billionths.
    stake: u64,
    validator: bool,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A list of objects.
    Json,
    /// A line of names, then a line an entry.
    Csv,
}

/// Why a file is no metagraph. Nothing of it counts then.
#[derive(Debug, thiserror::Error)]
pub enum MetagraphError {
    /// Its name does not say how it is written.
    #[error("its name must end in .json or .csv")]
    Extension,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is larger than any metagraph.
    #[error("it has more than {BYTES_MAX} bytes")]
    TooLarge,
    /// It is no list of entries in JSON.
    #[error("it is no list of entries: {0}")]
    Json(#[from] serde_json::Error),
    /// It is no table of entries in CSV.
    #[error("it is no table of entries: {0}")]
    Csv(#[from] csv::Error),
    /// It lists nobody: a file that was cut would turn everyone away.
    #[error("it lists nobody")]
    Empty,
    /// An entry is wrong.
    #[error("entry {entry}: {wrong}")]
    Entry {
        /// Which one, from 1 on.
        entry: usize,
        /// What is wrong with it.
        wrong: WrongEntry,
    },
    /// More stake than there is.
    #[error("the validators' stakes are too large to be summed")]
    Stakes,
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongEntry {
    /// Its hotkey.
    #[error("hotkey is no ss58 address of 48 characters that begins with 5")]
    Hotkey,
    /// Its hotkey stands before.
    #[error("hotkey stands there twice")]
    HotkeyTwice,
    /// Its uid stands before.
    #[error("uid stands there twice")]
    UidTwice,
    /// Whether it is a validator.
    #[error("validator is neither true nor false")]
    Validator,
    /// Its stake.
    #[error("stake is no number of 0 or more")]
    Stake,
}

/// Why a hotkey has no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareFault {
    /// It is not listed.
    #[error("the validator's hotkey {0} is not in the metagraph, and gateway.share is not set")]
    NotListed(Hotkey),
    /// It is listed, but as no validator.
    #[error("the metagraph says that {0} is no validator, and gateway.share is not set")]
    NoValidator(Hotkey),
    /// It has no stake.
    #[error("the validator {0} has no stake in the metagraph, and gateway.share is not set")]
    NoStake(Hotkey),
}

/// An entry as JSON has it.
#[derive(Deserialize)]
struct JsonEntry {
    hotkey: String,
    uid: u16,
    /// As it is written: a binary fraction would round it.
    stake: Box<RawValue>,
    validator: Option<bool>,
}

/// An entry as CSV has it.
#[derive(Deserialize)]
struct CsvEntry {
    hotkey: String,
    uid: u16,
    stake: String,
    validator: Option<String>,
}

/// An entry before it was looked at.
struct Raw {
    hotkey: String,
    uid: u16,
    stake: String,
    validator: Option<bool>,
}

// === impl Format ===

impl Format {
    /// By the ending of a name.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?;
        if ending.eq_ignore_ascii_case("json") {
            Some(Self::Json)
        } else if ending.eq_ignore_ascii_case("csv") {
            Some(Self::Csv)
        } else {
            None
        }
    }
}

// === impl Metagraph ===

impl Metagraph {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`MetagraphError`].
    pub fn load(path: &Path) -> Result<Self, MetagraphError> {
        let format = Format::of(path).ok_or(MetagraphError::Extension)?;
        let mut text = String::new();
        let read = File::open(path)?.take(BYTES_MAX.saturating_add(1));
        let bytes = { read }.read_to_string(&mut text)?;
        if bytes as u64 > BYTES_MAX {
            return Err(MetagraphError::TooLarge);
        }
        Self::parse(&text, format)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// See [`MetagraphError`].
    pub fn parse(text: &str, format: Format) -> Result<Self, MetagraphError> {
        let raw = match format {
            Format::Json => from_json(text)?,
            Format::Csv => from_csv(text)?,
        };
        let mut entries = HashMap::with_capacity(raw.len());
        let mut uids = HashSet::with_capacity(raw.len());
        let mut staked = 0_u64;
        for (at, raw) in raw.into_iter().enumerate() {
            let wrong = |wrong| MetagraphError::Entry {
                entry: at.saturating_add(1),
                wrong,
            };
            let hotkey: Hotkey = (raw.hotkey.parse()).map_err(|_| wrong(WrongEntry::Hotkey))?;
            let stake = billionths(&raw.stake).ok_or_else(|| wrong(WrongEntry::Stake))?;
            let entry = Entry {
                uid: raw.uid,
                stake,
                // Where nothing is said, whoever has stake is one.
                validator: raw.validator.unwrap_or(stake > 0),
            };
            if entry.validator {
                staked = staked.checked_add(stake).ok_or(MetagraphError::Stakes)?;
            }
            if !uids.insert(entry.uid) {
                return Err(wrong(WrongEntry::UidTwice));
            }
            if entries.insert(hotkey, entry).is_some() {
                return Err(wrong(WrongEntry::HotkeyTwice));
            }
        }
        if entries.is_empty() {
            return Err(MetagraphError::Empty);
        }
        Ok(Self { entries, staked })
    }

    /// How many are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is listed; no file can say so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a hotkey is listed.
    #[must_use]
    pub fn has(&self, hotkey: &Hotkey) -> bool {
        self.entries.contains_key(hotkey)
    }

    /// A hotkey's uid.
    #[must_use]
    pub fn uid(&self, hotkey: &Hotkey) -> Option<u16> {
        self.entries.get(hotkey).map(|entry| entry.uid)
    }

    /// A validator's part of every miner: its stake of all validators' stake.
    ///
    /// # Errors
    /// When it is not listed, no validator, or without stake.
    pub fn share(&self, hotkey: &Hotkey) -> Result<Share, ShareFault> {
        let entry = self.entries.get(hotkey);
        let entry = entry.ok_or(ShareFault::NotListed(*hotkey))?;
        if !entry.validator {
            return Err(ShareFault::NoValidator(*hotkey));
        }
        Share::new(entry.stake, self.staked).ok_or(ShareFault::NoStake(*hotkey))
    }
}

fn from_json(text: &str) -> Result<Vec<Raw>, MetagraphError> {
    let entries: Vec<JsonEntry> = serde_json::from_str(text)?;
    let raw = |entry: JsonEntry| Raw {
        hotkey: entry.hotkey,
        uid: entry.uid,
        // A text with a number in it is as good as the number.
        stake: entry.stake.get().trim_matches('"').to_owned(),
        validator: entry.validator,
    };
    Ok(entries.into_iter().map(raw).collect())
}

fn from_csv(text: &str) -> Result<Vec<Raw>, MetagraphError> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut all = Vec::new();
    for entry in reader.deserialize() {
        let entry: CsvEntry = entry?;
        let validator = entry.validator.filter(|word| !word.is_empty());
        let validator = match validator.as_deref() {
            None => None,
            Some("1" | "true" | "True") => Some(true),
            Some("0" | "false" | "False") => Some(false),
            Some(_) => {
                return Err(MetagraphError::Entry {
                    entry: all.len().saturating_add(1),
                    wrong: WrongEntry::Validator,
                });
            }
        };
        all.push(Raw {
            hotkey: entry.hotkey,
            uid: entry.uid,
            stake: entry.stake,
            validator,
        });
    }
    Ok(all)
}

/// A decimal number in billionths, such as `1234.5` or `5e-06`; what is less than one is cut.
fn billionths(text: &str) -> Option<u64> {
    let (number, power) = match text.split_once(['e', 'E']) {
        Some((number, power)) => (number, power.parse::<i8>().ok()?),
        None => (text, 0),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{part}");
    let fits = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !fits(whole) || !fits(&digits) {
        return None;
    }
    let shift = STAKE_DECIMALS
        .checked_add(i64::from(power))?
        .checked_sub(i64::try_from(part.len()).ok()?)?;
    let digits = digits.trim_start_matches('0');
    let scaled = if shift < 0 {
        let kept = digits.len().saturating_sub(usize::try_from(-shift).ok()?);
        digits[..kept].to_owned()
    } else {
        format!("{digits}{}", "0".repeat(usize::try_from(shift).ok()?))
    };
    if digits.is_empty() || scaled.is_empty() {
        return Some(0);
    }
    scaled.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    const BOB: &str = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty";
    const CHARLIE: &str = "5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y";

    fn hotkey(text: &str) -> Hotkey {
        text.parse().unwrap()
    }

    fn json(entries: &[(&str, u16, &str, &str)]) -> String {
        let entries: Vec<String> = entries
            .iter()
            .map(|(hotkey, uid, stake, more)| {
                format!("{{\"hotkey\": \"{hotkey}\", \"uid\": {uid}, \"stake\": {stake}{more}}}")
            })
            .collect();
        format!("[{}]", entries.join(", "))
    }

    #[test]
    fn both_forms_say_the_same() {
        let text = json(&[
            (ALICE, 0, "1000.000000001", ""),
            (BOB, 3, "\"2000\"", ", \"validator\": true, \"rank\": 0.5"),
            (CHARLIE, 7, "500.5", ", \"validator\": false"),
        ]);
        let read = Metagraph::parse(&text, Format::Json).unwrap();
        let text = format!(
            "uid,hotkey,stake,validator,rank\n0,{ALICE},1000.000000001,,1\n\
             3, {BOB} ,2e3,1,0.5\n7,{CHARLIE},500.5,false,0\n"
        );
        assert_eq!(read, Metagraph::parse(&text, Format::Csv).unwrap());
        assert_eq!(read.len(), 3);
        assert_eq!(read.uid(&hotkey(BOB)), Some(3));
        let share = read.share(&hotkey(ALICE)).unwrap();
        assert_eq!(share.to_string(), "1000000000001/3000000000001");
        let fault = read.share(&hotkey(CHARLIE)).unwrap_err();
        assert_eq!(fault, ShareFault::NoValidator(hotkey(CHARLIE)));
    }

    #[test]
    fn who_has_stake_is_a_validator_where_nothing_is_said() {
        let text = format!("hotkey,uid,stake\n{ALICE},0,1\n{BOB},1,0\n");
        let read = Metagraph::parse(&text, Format::Csv).unwrap();
        assert_eq!(read.share(&hotkey(ALICE)).unwrap().to_string(), "1/1");
        assert!(read.share(&hotkey(BOB)).is_err());
        let fault = read.share(&hotkey(CHARLIE)).unwrap_err();
        assert_eq!(fault, ShareFault::NotListed(hotkey(CHARLIE)));
    }

    #[test]
    fn stakes_are_exact_to_a_billionth() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0.0", Some(0)),
            ("0.000000001", Some(1)),
            ("0.0000000019", Some(1)),
            ("0.30000000000000004", Some(300_000_000)),
            ("1234.5", Some(1_234_500_000_000)),
            ("21000000", Some(21_000_000_000_000_000)),
            ("5e-06", Some(5_000)),
            ("1.5E+3", Some(1_500_000_000_000)),
            ("1e-30", Some(0)),
            ("18446744073.709551615", Some(u64::MAX)),
            ("18446744073.709551616", None),
            ("1e100", None),
            ("-1", None),
            ("+1", None),
            (".5", None),
            ("", None),
            ("nan", None),
            ("1_000", None),
            ("null", None),
        ] {
            assert_eq!(billionths(text), expected, "{text}");
        }
    }

    #[test]
    fn a_file_with_anything_wrong_is_refused_whole() {
        let refused = |text: &str, format| match Metagraph::parse(text, format) {
            Ok(read) => panic!("{read:?}"),
            Err(error) => error.to_string(),
        };
        let told = [
            refused("[]", Format::Json),
            refused("{}", Format::Json),
            refused(&json(&[(ALICE, 0, "1", "")])[..40], Format::Json),
            refused(
                &json(&[(ALICE, 0, "1", ""), ("5Bob", 1, "1", "")]),
                Format::Json,
            ),
            refused(
                &json(&[(ALICE, 0, "1", ""), (ALICE, 1, "1", "")]),
                Format::Json,
            ),
            refused(
                &json(&[(ALICE, 4, "1", ""), (BOB, 4, "1", "")]),
                Format::Json,
            ),
            refused(&json(&[(ALICE, 0, "null", "")]), Format::Json),
            refused(
                &json(&[(ALICE, 0, "1.8e10", ""), (BOB, 1, "1.8e10", "")]),
                Format::Json,
            ),
            refused("hotkey,uid\n5A,1\n", Format::Csv),
            refused("hotkey,uid,stake\n", Format::Csv),
            refused(&format!("hotkey,uid,stake\n{ALICE},-1,0\n"), Format::Csv),
            refused(
                &format!("hotkey,uid,stake,validator\n{ALICE},1,0,maybe\n"),
                Format::Csv,
            ),
        ];
        insta::assert_snapshot!(told.join("\n"), @r"
        it lists nobody
        it is no list of entries: invalid type: map, expected a sequence at line 1 column 0
        it is no list of entries: EOF while parsing a string at line 1 column 40
        entry 2: hotkey is no ss58 address of 48 characters that begins with 5
        entry 2: hotkey stands there twice
        entry 2: uid stands there twice
        entry 1: stake is no number of 0 or more
        the validators' stakes are too large to be summed
        it is no table of entries: CSV deserialize error: record 1 (line: 2, byte: 11): missing field `stake`
        it lists nobody
        it is no table of entries: CSV deserialize error: record 1 (line: 2, byte: 17): field 1: invalid digit found in string
        entry 1: validator is neither true nor false
        ");
    }
}
