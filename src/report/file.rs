//! A seal in a file, to be checked without a gateway.
//!
//! Either the bytes of a `taugate.v1.Seal`, or JSON as tools print it: an object with
//! `payload`, `signature` (base64) and `hotkey`, alone or as `record`, or that as `seal`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde_json::Value;

use crate::proto::v1;

/// Seals of two hundred thousand totals are smaller, bytes.
pub const BYTES_MAX: u64 = 64 << 20;

/// Why a file is no seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    /// It is JSON, but not of a seal.
    #[error("no seal: a JSON object with payload, signature (base64) and hotkey is needed")]
    Json,
    /// It is neither.
    #[error("no seal: neither JSON nor the bytes of a taugate.v1.Seal")]
    Bytes,
}

/// The signed record of a seal's file.
///
/// # Errors
/// When it holds none.
pub fn record(bytes: &[u8]) -> Result<v1::SignedRecord, FileFault> {
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        let read: Value = serde_json::from_slice(bytes).map_err(|_| FileFault::Json)?;
        return of_json(&read).ok_or(FileFault::Json);
    }
    let seal = v1::Seal::decode(bytes).map_err(|_| FileFault::Bytes)?;
    seal.record.ok_or(FileFault::Bytes)
}

fn of_json(read: &Value) -> Option<v1::SignedRecord> {
    let inner = ["seal", "record"]
        .into_iter()
        .fold(read, |outer, name| outer.get(name).unwrap_or(outer));
    let bytes = |name: &str| STANDARD.decode(inner.get(name)?.as_str()?).ok();
    Some(v1::SignedRecord {
        payload: bytes("payload")?,
        signature: bytes("signature")?,
        hotkey: inner.get("hotkey")?.as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_read_as_tools_write_it() {
        let record = v1::SignedRecord {
            payload: vec![1, 2, 255],
            signature: vec![3; 64],
            hotkey: "5x".into(),
        };
        let seal = v1::Seal {
            record: Some(record.clone()),
        };
        assert_eq!(super::record(&seal.encode_to_vec()), Ok(record.clone()));
        let json = serde_json::json!({
            "payload": STANDARD.encode(&record.payload),
            "signature": STANDARD.encode(&record.signature),
            "hotkey": "5x",
        });
        for json in [
            json.clone(),
            serde_json::json!({ "record": json }),
            serde_json::json!({ "seal": { "record": json } }),
        ] {
            let text = format!("\n {json}");
            assert_eq!(super::record(text.as_bytes()), Ok(record.clone()), "{text}");
        }
        assert_eq!(super::record(b"{\"payload\": 5}"), Err(FileFault::Json));
        assert_eq!(super::record(b"{"), Err(FileFault::Json));
        assert_eq!(super::record(b"hello"), Err(FileFault::Bytes));
        assert_eq!(super::record(b""), Err(FileFault::Bytes));
    }
}
