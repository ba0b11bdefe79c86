//! Recorded traffic: when calls came, how long prompts and answers were.

use std::io::Read;
use std::time::Duration;

/// The recorded hour that is shipped; `data/README.md` says whose it is.
const SHIPPED: &str = include_str!("../../../data/azure_llm_code_2023.csv");

/// Calls that a trace may have; more is no trace of an hour but a mistake.
const CALLS_MAX: usize = 10_000_000;

/// One recorded call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Since the first call of the trace.
    pub at: Duration,
    /// Length of the prompt, tokens.
    pub context_tokens: u32,
    /// Length of the answer, tokens.
    pub generated_tokens: u32,
}

/// Which part of a trace is meant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    /// Calls before this are left out; the first of the rest leaves at once.
    pub from: Duration,
    /// Calls later than this after `from` are left out; `None`: none are.
    pub length: Option<Duration>,
    /// Calls at most; `None`: all.
    pub limit: Option<usize>,
}

/// Why a text is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A row does not have the columns, or they hold no numbers.
    #[error("the trace cannot be read: {0}")]
    Row(#[from] csv::Error),
    /// A row's time cannot be read.
    #[error("line {0} of the trace: TIMESTAMP is not like 2023-11-16 18:17:03.97")]
    Time(u64),
    /// There are too many rows.
    #[error("the trace has more than {CALLS_MAX} calls")]
    TooLong,
    /// There is no call in it, or none in the part that was asked for.
    #[error("the trace has no call in that part")]
    Empty,
}

/// A row as it is written.
#[derive(serde::Deserialize)]
struct Row {
    #[serde(rename = "TIMESTAMP")]
    timestamp: String,
    #[serde(rename = "ContextTokens")]
    context_tokens: u32,
    #[serde(rename = "GeneratedTokens")]
    generated_tokens: u32,
}

/// The recorded hour that is shipped, in order of time.
///
/// # Errors
/// Never, unless the file in the source tree was damaged.
pub fn shipped() -> Result<Vec<Recorded>, TraceError> {
    read(SHIPPED.as_bytes())
}

/// Reads a trace with the columns `TIMESTAMP,ContextTokens,GeneratedTokens`; others are
/// passed over. The calls come out in order of time.
///
/// # Errors
/// When a row cannot be read, or there is none.
pub fn read(from: impl Read) -> Result<Vec<Recorded>, TraceError> {
    let mut rows = csv::Reader::from_reader(from);
    let headers = rows.headers()?.clone();
    let mut record = csv::StringRecord::new();
    let mut calls = Vec::new();
    while rows.read_record(&mut record)? {
        let row: Row = record.deserialize(Some(&headers))?;
        let line = record.position().map_or(0, csv::Position::line);
        if calls.len() >= CALLS_MAX {
            return Err(TraceError::TooLong);
        }
        calls.push(Recorded {
            at: instant(&row.timestamp).ok_or(TraceError::Time(line))?,
            context_tokens: row.context_tokens,
            generated_tokens: row.generated_tokens,
        });
    }
    calls.sort_by_key(|call| call.at);
    let first = calls.first().ok_or(TraceError::Empty)?.at;
    for call in &mut calls {
        call.at = call.at.saturating_sub(first);
    }
    Ok(calls)
}

/// The calls of a part, the first of them at zero.
///
/// # Errors
/// When the part holds no call.
pub fn cut(calls: Vec<Recorded>, part: Part) -> Result<Vec<Recorded>, TraceError> {
    let until = part.length.and_then(|length| part.from.checked_add(length));
    let mut calls: Vec<_> = calls
        .into_iter()
        .filter(|call| call.at >= part.from && until.is_none_or(|until| call.at < until))
        .take(part.limit.unwrap_or(usize::MAX))
        .collect();
    let first = calls.first().ok_or(TraceError::Empty)?.at;
    for call in &mut calls {
        call.at = call.at.saturating_sub(first);
    }
    Ok(calls)
}

/// The time of `2023-11-16 18:17:03.9799600`, since some day long past. A zone is not read:
/// only differences count.
fn instant(text: &str) -> Option<Duration> {
    let (date, time) = text.trim().split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(str::parse::<u32>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let sane = (1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let days = sane.then(|| days(year, month, day))?;
    let time = time.trim_end_matches('Z');
    let time = time.split_once('+').map_or(time, |(time, _)| time);
    let mut time = time.splitn(3, ':');
    let hours: u32 = time.next()?.parse().ok().filter(|hours| *hours < 24)?;
    let minutes: u32 = time.next()?.parse().ok().filter(|minutes| *minutes < 60)?;
    let seconds: f64 = time
        .next()?
        .parse()
        .ok()
        .filter(|seconds| *seconds < 61.0)?;
    let whole = u64::from(days) * 86_400 + u64::from(hours) * 3600 + u64::from(minutes) * 60;
    Duration::from_secs(whole).checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// Days since the first of March of year 0: with the leap day last, months need no table.
const fn days(year: u32, month: u32, day: u32) -> u32 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n";

    #[test]
    fn the_shipped_hour_is_read_whole_and_in_order() {
        let calls = shipped().unwrap();
        assert_eq!(calls.len(), 8_819);
        assert!(calls.is_sorted_by_key(|call| call.at));
        assert_eq!(calls.last().unwrap().at.as_secs(), 3435);
        let sum = |tokens: fn(&Recorded) -> u32| -> u64 {
            calls.iter().map(|call| u64::from(tokens(call))).sum()
        };
        assert_eq!(sum(|call| call.context_tokens), 18_059_974);
        assert_eq!(sum(|call| call.generated_tokens), 245_896);
    }

    #[test]
    fn time_goes_on_over_midnight_and_the_end_of_a_leap_february() {
        let second = |text: &str| instant(text).unwrap().as_secs_f64();
        let span = |from: &str, to: &str| second(to) - second(from);
        let near = |one: f64, other: f64| (one - other).abs() < 1e-6;
        assert!(near(
            span("2024-02-28 23:59:59.5", "2024-02-29 00:00:00"),
            0.5
        ));
        assert!(near(
            span("2023-02-28 00:00:00", "2023-03-01 00:00:00"),
            86_400.0
        ));
        assert!(near(
            span("2023-12-31T23:59:59Z", "2024-01-01 00:00:00+00:00"),
            1.0
        ));
    }

    #[test]
    fn a_time_that_is_none_is_told_with_its_line() {
        for time in [
            "",
            "18:17:03",
            "2023-13-01 00:00:00",
            "2023-11-16 25:00:00",
            "a b",
        ] {
            let text = format!("{HEADER}2023-11-16 18:17:03,1,2\n\"{time}\",1,2\n");
            match read(text.as_bytes()) {
                Err(TraceError::Time(3)) => {}
                other => panic!("{time}: {other:?}"),
            }
        }
        assert!(matches!(read(HEADER.as_bytes()), Err(TraceError::Empty)));
        assert!(matches!(
            read("a,b\n1,2\n".as_bytes()),
            Err(TraceError::Row(_))
        ));
    }

    #[test]
    fn a_part_begins_at_zero_and_ends_where_it_was_asked_to() {
        let calls: Vec<_> = (0..10)
            .map(|at| Recorded {
                at: Duration::from_secs(at * 60),
                context_tokens: 1,
                generated_tokens: 1,
            })
            .collect();
        let part = Part {
            from: Duration::from_secs(90),
            length: Some(Duration::from_secs(300)),
            limit: Some(4),
        };
        let found = cut(calls.clone(), part).unwrap();
        let at: Vec<_> = found.iter().map(|call| call.at.as_secs()).collect();
        assert_eq!(at, [0, 60, 120, 180]);
        let late = Part {
            from: Duration::from_secs(3600),
            ..Part::default()
        };
        assert!(matches!(cut(calls, late), Err(TraceError::Empty)));
    }
}
