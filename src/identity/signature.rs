//! What hotkeys sign, and how it is checked.
//!
//! All signatures are sr25519 in the context `substrate`, 64 bytes, over the bare message.
//! Wallets also accept a message that is wrapped in `<Bytes>`; here it is another message.
//!
//! Two things are signed. Each is a row of fields, every field behind its length as four
//! bytes, big end first, so that no two rows read the same:
//! - a **record**, which anyone can verify at any time: `taugate-record-v1`, the record's
//!   kind, its payload;
//! - a **call**, which is good for one receiver, one method, once: `taugate-auth-v1`, the
//!   method's path (`/taugate.v1.CapacityService/Declare`), the receiver's key (32 bytes),
//!   the sender's key (32 bytes), the time (Unix milliseconds, 8 bytes, big end first), the
//!   nonce (16 bytes), SHA-256 of the message's exact bytes (32 bytes). The bytes of a
//!   client stream's opening are empty. [`crate::identity::call`] checks them.

use schnorrkel::{PublicKey, Signature as Sr25519};

use super::hotkey::{Hotkey, Keypair};

/// The context of all signatures, as Substrate has it.
const CONTEXT: &[u8] = b"substrate";

/// First field of a signed record.
const RECORD_TAG: &[u8] = b"taugate-record-v1";

/// A signature's bytes.
pub type SignatureBytes = [u8; 64];

/// Why a signature does not hold. For logs; whoever sent it learns only that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not 64 bytes.
    #[error("the signature has {0} bytes, not 64")]
    Length(usize),
    /// 64 bytes that are no sr25519 signature.
    #[error("not an sr25519 signature")]
    Form,
    /// The hotkey's bytes are no public key.
    #[error("the hotkey is no public key")]
    Key,
    /// Somebody else signed, or something else was signed.
    #[error("the signature does not match")]
    Mismatch,
}

// === impl Keypair ===

impl Keypair {
    /// Signs a bare message. Signatures are randomised: two of one message differ.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> SignatureBytes {
        self.keys().sign_simple(CONTEXT, message).to_bytes()
    }

    /// Signs a record of that kind.
    #[must_use]
    pub fn sign_record(&self, kind: &str, payload: &[u8]) -> SignatureBytes {
        self.sign(&record(kind, payload))
    }
}

// === impl Hotkey ===

impl Hotkey {
    /// Checks a signature by this key over a bare message. About 50 microseconds.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        if signature.len() != 64 {
            return Err(SignatureError::Length(signature.len()));
        }
        let signature = Sr25519::from_bytes(signature).map_err(|_| SignatureError::Form)?;
        let key = PublicKey::from_bytes(self.as_bytes()).map_err(|_| SignatureError::Key)?;
        key.verify_simple(CONTEXT, message, &signature)
            .map_err(|_| SignatureError::Mismatch)
    }

    /// Checks a record of that kind.
    ///
    /// # Errors
    ///
    /// What is wrong with its signature.
    pub fn verify_record(
        &self,
        kind: &str,
        payload: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        self.verify(&record(kind, payload), signature)
    }
}

fn record(kind: &str, payload: &[u8]) -> Vec<u8> {
    fields(&[RECORD_TAG, kind.as_bytes(), payload])
}

/// A row of fields, each behind its length.
pub(super) fn fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut row = Vec::with_capacity(fields.iter().map(|field| field.len() + 4).sum());
    for field in fields {
        // Nothing near 4 GiB is ever signed: messages are bounded far below.
        let len = u32::try_from(field.len()).unwrap_or(u32::MAX);
        row.extend_from_slice(&len.to_be_bytes());
        row.extend_from_slice(field);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Vector {
        name: String,
        ss58: String,
        public_key: String,
        message_hex: String,
        signature: String,
    }

    fn vectors() -> Vec<(String, Hotkey, Vec<u8>, Vec<u8>)> {
        let text = include_str!("../../tests/vectors/sr25519_vectors.json");
        let vectors: Vec<Vector> = serde_json::from_str(text).unwrap();
        assert_eq!(vectors.len(), 7);
        vectors
            .into_iter()
            .map(|vector| {
                let hotkey: Hotkey = vector.ss58.parse().unwrap();
                assert_eq!(hex::encode(hotkey.as_bytes()), vector.public_key);
                assert_eq!(hotkey.to_string(), vector.ss58);
                let message = hex::decode(&vector.message_hex).unwrap();
                let signature = hex::decode(&vector.signature).unwrap();
                (vector.name, hotkey, message, signature)
            })
            .collect()
    }

    #[test]
    fn signatures_by_wallets_verify() {
        for (name, hotkey, message, signature) in vectors() {
            assert_eq!(hotkey.verify(&message, &signature), Ok(()), "{name}");
        }
    }

    #[test]
    fn one_flipped_bit_in_message_key_or_signature_fails() {
        for (name, hotkey, message, signature) in vectors() {
            for at in 0..message.len() {
                let mut other = message.clone();
                other[at] ^= 1;
                let verdict = hotkey.verify(&other, &signature);
                assert_eq!(verdict, Err(SignatureError::Mismatch), "{name} {at}");
            }
            for at in 0..64 {
                let mut other = signature.clone();
                other[at] ^= 1;
                assert!(hotkey.verify(&message, &other).is_err(), "{name} {at}");
            }
            for at in 0..32 {
                let mut key = *hotkey.as_bytes();
                key[at] ^= 1;
                let other = Hotkey::from_bytes(key);
                assert!(other.verify(&message, &signature).is_err(), "{name} {at}");
            }
        }
    }

    #[test]
    fn a_signature_is_64_bytes_marked_as_sr25519() {
        for (name, hotkey, message, signature) in vectors() {
            for bad in [
                &[][..],
                b"0x",
                &signature[..63],
                &[&signature[..], &[0]].concat(),
            ] {
                let verdict = hotkey.verify(&message, bad);
                assert_eq!(verdict, Err(SignatureError::Length(bad.len())), "{name}");
            }
            let mut unmarked = signature;
            unmarked[63] &= 0x7f;
            let verdict = hotkey.verify(&message, &unmarked);
            assert_eq!(verdict, Err(SignatureError::Form), "{name}");
            let zeros = hotkey.verify(&message, &[0; 64]);
            assert_eq!(zeros, Err(SignatureError::Form), "{name}");
        }
    }

    #[test]
    fn another_context_is_another_signature() {
        for (name, hotkey, message, signature) in vectors() {
            let key = PublicKey::from_bytes(hotkey.as_bytes()).unwrap();
            let signature = Sr25519::from_bytes(&signature).unwrap();
            assert!(
                key.verify_simple(b"", &message, &signature).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_wrapped_message_is_not_the_bare_one() {
        let (_, hotkey, message, signature) = vectors().remove(4);
        assert_eq!(message, b"<Bytes>hello bittensor</Bytes>");
        let bare = hotkey.verify(b"hello bittensor", &signature);
        assert_eq!(bare, Err(SignatureError::Mismatch));
    }

    #[test]
    fn a_record_holds_for_its_kind_and_payload_only() {
        let keypair = Keypair::from_secret("//Alice").unwrap();
        let hotkey = keypair.hotkey();
        let signature = keypair.sign_record("declaration", b"payload");
        let verify = |kind, payload: &[u8]| hotkey.verify_record(kind, payload, &signature);
        assert_eq!(verify("declaration", b"payload"), Ok(()));
        assert_eq!(verify("seal", b"payload"), Err(SignatureError::Mismatch));
        assert_eq!(
            verify("declaration", b"payloa"),
            Err(SignatureError::Mismatch)
        );
        // The border between two fields cannot be moved.
        assert_eq!(
            verify("declarationp", b"ayload"),
            Err(SignatureError::Mismatch)
        );
        let bare = keypair.sign(b"payload");
        let verdict = hotkey.verify_record("declaration", b"payload", &bare);
        assert_eq!(verdict, Err(SignatureError::Mismatch));
    }

    #[test]
    fn bytes_that_are_no_point_are_no_key() {
        let (_, _, message, signature) = vectors().remove(0);
        let verdict = Hotkey::from_bytes([0xff; 32]).verify(&message, &signature);
        assert_eq!(verdict, Err(SignatureError::Key));
    }
}
