//! Rows of keys and nonces.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use super::rows::{RowFault, Stop, int, uint};
use crate::identity::StoreAway;
use crate::identity::api_key::{Scope, StoredKey};
use crate::identity::hotkey::Hotkey;
use crate::identity::nonce::Nonce;

type Kept<T> = Result<T, Stop<StoreAway>>;

const T: &str = "api_key";

/// Adds a key, or replaces the one of the same public id.
pub(super) fn put_key(conn: &Connection, key: &StoredKey) -> Result<(), RowFault> {
    let tasks = key
        .tasks
        .as_ref()
        .map(serde_json::to_string)
        .transpose()
        .map_err(|_| RowFault::Damaged(T))?;
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    conn.prepare_cached(
        "INSERT OR REPLACE INTO api_key (public_id, sha256, name, tasks, scopes, proven_only,
             created_ms, expires_ms, revoked_ms, last_used_ms, sample_permille)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        &*key.public_id,
        &key.sha256[..],
        &*key.name,
        tasks,
        scopes.join(" "),
        key.proven_only,
        int(key.created_ms),
        key.expires_ms.map(int),
        key.revoked_ms.map(int),
        key.last_used_ms.map(int),
        key.sample_permille,
    ])?;
    changed(conn)
}

/// Lets gateways that run see that a key changed.
fn changed(conn: &Connection) -> Result<(), RowFault> {
    conn.prepare_cached("UPDATE store SET key_version = key_version + 1")?
        .execute([])?;
    Ok(())
}

/// Rises with each key that is put or revoked.
pub(super) fn key_version(conn: &Connection) -> Result<u64, RowFault> {
    let version = conn
        .prepare_cached("SELECT key_version FROM store")?
        .query_row([], |row| row.get(0))?;
    uint(version, "store")
}

/// Keeps when keys were last used; an earlier use than the one that stands changes nothing.
pub(super) fn note_key_uses(conn: &Connection, uses: &[(Arc<str>, u64)]) -> Kept<()> {
    let mut note = conn.prepare_cached(
        "UPDATE api_key SET last_used_ms = max(coalesce(last_used_ms, 0), ?2)
         WHERE public_id = ?1",
    )?;
    for (public_id, at_ms) in uses {
        note.execute((&**public_id, int(*at_ms)))?;
    }
    Ok(())
}

/// All keys, revoked and expired ones included.
pub(super) fn keys(conn: &Connection) -> Result<Vec<StoredKey>, RowFault> {
    conn.prepare_cached(
        "SELECT public_id, sha256, name, tasks, scopes, proven_only, created_ms, expires_ms,
             revoked_ms, last_used_ms, sample_permille FROM api_key ORDER BY created_ms, public_id",
    )?
    .query_and_then([], key_of)?
    .collect()
}

fn key_of(row: &Row<'_>) -> Result<StoredKey, RowFault> {
    let damaged = || RowFault::Damaged(T);
    let instant = |at: Option<i64>| at.map(|at| uint(at, T)).transpose();
    let tasks: Option<Vec<String>> = row
        .get::<_, Option<String>>(3)?
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|_| damaged())?;
    Ok(StoredKey {
        public_id: row.get(0)?,
        sha256: row.get(1)?,
        name: row.get(2)?,
        tasks: tasks.map(|tasks| tasks.into_iter().map(Arc::from).collect()),
        scopes: row
            .get_ref(4)?
            .as_str()
            .map_err(|_| damaged())?
            .split_whitespace()
            .map(|word| Scope::from_word(word).ok_or_else(damaged))
            .collect::<Result<_, _>>()?,
        proven_only: row.get(5)?,
        created_ms: uint(row.get(6)?, T)?,
        expires_ms: instant(row.get(7)?)?,
        revoked_ms: instant(row.get(8)?)?,
        last_used_ms: instant(row.get(9)?)?,
        sample_permille: row.get(10)?,
    })
}

/// Revokes a key; an earlier instant stands.
pub(super) fn revoke_key(conn: &Connection, public_id: &str, at_ms: u64) -> Result<bool, RowFault> {
    let known = conn
        .prepare_cached(
            "UPDATE api_key SET revoked_ms = coalesce(revoked_ms, ?2) WHERE public_id = ?1",
        )?
        .execute((public_id, int(at_ms)))?;
    if known > 0 {
        changed(conn)?;
    }
    Ok(known > 0)
}

/// Spends a nonce: whether it is new.
pub(super) fn spend_nonce(
    conn: &Connection,
    hotkey: Hotkey,
    nonce: Nonce,
    keep_until_ms: u64,
) -> Kept<bool> {
    let new = conn
        .prepare_cached(
            "INSERT INTO nonce (hotkey, nonce, keep_until_ms) VALUES (?1, ?2, ?3)
             ON CONFLICT DO NOTHING",
        )?
        .execute((&hotkey.as_bytes()[..], &nonce[..], int(keep_until_ms)))?;
    Ok(new > 0)
}
