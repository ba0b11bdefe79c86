//! A declaration that was checked: decoded, of this network, signed by its hotkey, valid now.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use taugate_ledger::period::PeriodLength;
use taugate_ledger::units::Units;

use super::reach::may_be_at;
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::proto::v1;
use crate::task::{TaskId, TaskKind};

/// The kind under which declarations are signed.
pub const RECORD_KIND: &str = "declaration";

/// The largest declaration, bytes.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// The longest endpoint, bytes.
const ENDPOINT_BYTES_MAX: usize = 256;
/// Tasks of a declaration.
const TASKS_MAX: usize = 256;
/// The longest validity: 31 days.
const VALIDITY_MS_MAX: u64 = 31 * 24 * 3600 * 1000;
/// The largest sequence: engines keep signed 64-bit integers.
pub(super) const SEQUENCE_MAX: u64 = i64::MAX as u64;
/// How far ahead of ours a miner's clock may be.
const AHEAD_MS_MAX: u64 = 5_000;

/// A signed declaration as it came.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Who says to have signed.
    pub hotkey: Hotkey,
    /// The exact bytes that were signed.
    pub payload: &'a [u8],
    /// 64 bytes.
    pub signature: &'a [u8],
}

/// A declaration that holds.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Who declared.
    pub hotkey: Hotkey,
    /// Rises with each declaration.
    pub sequence: u64,
    /// Until when it counts, Unix milliseconds.
    pub valid_until_ms: u64,
    /// What it can do.
    pub tasks: Vec<CheckedTask>,
}

/// What a miner can do of one task.
#[derive(Clone, Debug)]
pub struct CheckedTask {
    /// The task.
    pub id: TaskId,
    /// What it does.
    pub kind: TaskKind,
    /// Units an hour, over all validators.
    units_per_hour: u64,
    /// Requests at once; `None`: not stated.
    pub concurrency: Option<u32>,
}

/// Why a declaration was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// It is too large, no protobuf, or a field is out of range.
    #[error("the declaration is malformed: {0}")]
    Malformed(&'static str),
    /// It is for another network.
    #[error("the declaration is for another network")]
    Network,
    /// It names another hotkey than its envelope.
    #[error("the declaration is another hotkey's")]
    Foreign,
    /// Its signature does not hold.
    #[error("the signature does not hold")]
    Signature,
    /// It is not valid yet, or no longer.
    #[error("the declaration is not valid now")]
    NotValidNow,
    /// A newer one is known.
    #[error("a newer declaration is known")]
    Stale,
    /// The hotkey is not registered.
    #[error("the hotkey is not registered")]
    NotRegistered,
    /// This hotkey declares too often.
    #[error("too many declarations; wait {} ms", .0.as_millis())]
    TooOften(Duration),
    /// The registry is full.
    #[error("the registry is full")]
    Full,
    /// The endpoint is no `http://host:port` or `https://host:port`.
    #[error("the endpoint is not http://host:port or https://host:port")]
    Endpoint,
    /// The endpoint is an address that a miner may not be at.
    #[error("the endpoint's address is not public")]
    Private,
    /// The engine is away.
    #[error(transparent)]
    Away(#[from] StoreAway),
}

// === impl Checked ===

impl Checked {
    /// Whether it names a task.
    #[must_use]
    pub fn has(&self, task: &str) -> bool {
        self.tasks.iter().any(|offered| *offered.id == *task)
    }
}

// === impl CheckedTask ===

impl CheckedTask {
    /// What it can do in a period, rounded down.
    #[must_use]
    pub fn per_period(&self, length: PeriodLength) -> Units {
        const HOUR_S: u128 = 3600;
        let units = u128::from(self.units_per_hour) * u128::from(length.secs()) / HOUR_S;
        Units::new(u64::try_from(units).unwrap_or(u64::MAX))
    }
}

/// Checks a declaration; the cheapest checks come first.
///
/// # Errors
/// Names the first thing that is wrong.
pub fn check(record: Record<'_>, network: &str, now_ms: u64) -> Result<Checked, DeclareError> {
    if record.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(DeclareError::Malformed("more than 64 KiB"));
    }
    let declaration = v1::Declaration::decode(record.payload)
        .map_err(|_| DeclareError::Malformed("no protobuf"))?;
    if declaration.network != network {
        return Err(DeclareError::Network);
    }
    if declaration.hotkey != record.hotkey.to_string() {
        return Err(DeclareError::Foreign);
    }
    let (from, until) = (declaration.valid_from_ms, declaration.valid_until_ms);
    if until <= from || until - from > VALIDITY_MS_MAX {
        return Err(DeclareError::Malformed("validity must be at most 31 days"));
    }
    if now_ms.saturating_add(AHEAD_MS_MAX) < from || now_ms >= until {
        return Err(DeclareError::NotValidNow);
    }
    if !(1..=SEQUENCE_MAX).contains(&declaration.sequence) {
        return Err(DeclareError::Malformed("sequence out of range"));
    }
    let tasks = check_tasks(&declaration.tasks)?;
    record
        .hotkey
        .verify_record(RECORD_KIND, record.payload, record.signature)
        .map_err(|_| DeclareError::Signature)?;
    let (hotkey, sequence) = (record.hotkey, declaration.sequence);
    Ok(Checked {
        hotkey,
        sequence,
        valid_until_ms: until,
        tasks,
    })
}

fn check_tasks(tasks: &[v1::DeclaredTask]) -> Result<Vec<CheckedTask>, DeclareError> {
    if tasks.len() > TASKS_MAX {
        return Err(DeclareError::Malformed("more than 256 tasks"));
    }
    let distinct: BTreeSet<_> = tasks.iter().map(|task| &task.task).collect();
    if distinct.len() != tasks.len() {
        return Err(DeclareError::Malformed("a task stands twice"));
    }
    tasks.iter().map(check_task).collect()
}

fn check_task(task: &v1::DeclaredTask) -> Result<CheckedTask, DeclareError> {
    let named = (1..=128).contains(&task.task.len()) && !task.task.chars().any(char::is_control);
    if !named {
        return Err(DeclareError::Malformed(
            "a task's id must be 1 to 128 bytes",
        ));
    }
    let kind = v1::TaskKind::try_from(task.kind).unwrap_or_default();
    Ok(CheckedTask {
        id: Arc::from(task.task.as_str()),
        kind: TaskKind::from_proto(kind).ok_or(DeclareError::Malformed("a task has no kind"))?,
        units_per_hour: task.units_per_hour,
        concurrency: Some(task.concurrency).filter(|stated| *stated > 0),
    })
}

/// Checks where a miner is reached: `http://host:port` or `https://host:port`, nothing else.
/// An address has to be one that a miner may be at; what a name leads to is looked at when it
/// is connected to.
///
/// # Errors
/// When it is anything else.
pub fn endpoint(text: &str, private: bool) -> Result<http::Uri, DeclareError> {
    // A URI's parser drops a fragment in silence, and takes a path for what it is.
    let plain = text.len() <= ENDPOINT_BYTES_MAX && !text.contains(['@', '#', '?']);
    let scheme = |scheme| text.strip_prefix(scheme);
    let authority = scheme("http://").or_else(|| scheme("https://"));
    let authority = authority.filter(|_| plain);
    let authority = authority.filter(|authority| !authority.contains('/'));
    authority.ok_or(DeclareError::Endpoint)?;
    let uri: http::Uri = text.parse().map_err(|_| DeclareError::Endpoint)?;
    let reached = uri.host().is_some_and(|host| !host.is_empty())
        && uri.port_u16().is_some_and(|port| port != 0);
    if !reached {
        return Err(DeclareError::Endpoint);
    }
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse() {
        Ok(address) if !may_be_at(address, private) => Err(DeclareError::Private),
        Ok(_) | Err(_) => Ok(uri),
    }
}
