//! Hotkeys: the sr25519 keys by which miners and validators are known.
//!
//! In text a hotkey is an ss58 address of prefix 42: base58 over the prefix byte, the 32
//! bytes of the key and the first two bytes of BLAKE2b-512 over `SS58PRE`, prefix and key.
//!
//! A key file is a JSON object; `secretSeed` (`0x` and 64 hex digits) is the secret,
//! `ss58Address` must be its address. The names are those of unencrypted hotkey files of
//! Bittensor wallets, so that such a file can be read as it is; what else it holds is
//! ignored. Files are written with mode 0600, and never over another file.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::str::FromStr;

use blake2::{Blake2b512, Digest as _};
use rand::TryRng as _;
use rand::rngs::SysRng;
use schnorrkel::derive::ChainCode;
use schnorrkel::{ExpansionMode, MiniSecretKey};
use zeroize::{Zeroize as _, Zeroizing};

/// The secret of a gateway without a hotkey file. Known to everyone, and said so at start: it
/// signs nothing that counts.
pub const DEVELOPMENT: &str = "//taugate-development";

/// The first byte of an address: "any Substrate network", which Bittensor uses.
const SS58_PREFIX: u8 = 42;

/// Prefix, key and checksum.
const SS58_LEN: usize = 1 + 32 + 2;

/// No address of 35 bytes is longer in base58; checked before the quadratic decoding.
const ADDRESS_LEN_MAX: usize = 49;

/// The root of the public development keys (`//Alice` and so on). No secret: every
/// Substrate tool has it built in.
const DEV_ROOT: [u8; 32] = [
    0xfa, 0xc7, 0x95, 0x9d, 0xbf, 0xe7, 0x2f, 0x05, 0x2e, 0x5a, 0x0c, 0x3c, 0x8d, 0x65, 0x30, 0xf2,
    0x02, 0xb0, 0x2f, 0xd8, 0xf9, 0xf5, 0xca, 0x35, 0x80, 0xec, 0x8d, 0xeb, 0x77, 0x97, 0x47, 0x9e,
];

/// A chain code holds 32 bytes, one of which is a name's length.
const JUNCTION_LEN_MAX: usize = 31;

/// A key file is below 1 KiB; more than this is no key file.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;

/// A public key of sr25519, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hotkey([u8; 32]);

/// A hotkey and its secret. The secret is wiped on drop and never printed.
pub struct Keypair {
    hotkey: Hotkey,
    seed: Zeroizing<[u8; 32]>,
    keys: schnorrkel::Keypair,
}

/// Why a text is no hotkey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not base58, or not of 35 bytes.
    #[error("not an ss58 address")]
    Form,
    /// An address of another kind of network.
    #[error("the address has prefix {0}, not 42")]
    Prefix(u8),
    /// A mistyped address.
    #[error("the address's checksum is wrong")]
    Checksum,
}

/// Why a text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Neither 64 hex digits nor a development name such as `//Alice`.
    #[error("not a secret: 0x and 64 hex digits, or a development name such as //Alice")]
    Form,
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    Randomness,
}

/// Why a key file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file system refused.
    #[error("cannot read or write the key file")]
    Io(#[from] std::io::Error),
    /// Anyone on this machine may read or write it.
    #[error("the key file is open to everyone (mode {mode:o}); chmod 600 it")]
    Exposed {
        /// Its permission bits.
        mode: u32,
    },
    /// Not a JSON object with `secretSeed`.
    #[error("not a key file: no JSON object with a secretSeed")]
    Form,
    /// Its secret is no seed.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Its `ss58Address` is that of another key.
    #[error("the key file's ss58Address is not that of its secretSeed")]
    OtherAddress,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct KeyFile {
    #[serde(rename = "ss58Address", default)]
    ss58_address: Option<String>,
    #[serde(rename = "secretSeed")]
    secret_seed: String,
}

// === impl Hotkey ===

impl Hotkey {
    /// The key of these bytes. Whether they are a point of the curve shows when a signature
    /// is checked.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut address = [0; SS58_LEN];
        address[0] = SS58_PREFIX;
        address[1..33].copy_from_slice(&self.0);
        let checksum = checksum(&address[..33]);
        address[33..].copy_from_slice(&checksum);
        f.pad(&bs58::encode(address).into_string())
    }
}

impl fmt::Debug for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hotkey {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_LEN_MAX {
            return Err(AddressError::Form);
        }
        let bytes = bs58::decode(text)
            .into_vec()
            .map_err(|_| AddressError::Form)?;
        let bytes: [u8; SS58_LEN] = bytes.try_into().map_err(|_| AddressError::Form)?;
        if bytes[0] != SS58_PREFIX {
            return Err(AddressError::Prefix(bytes[0]));
        }
        if bytes[33..] != checksum(&bytes[..33]) {
            return Err(AddressError::Checksum);
        }
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[1..33]);
        Ok(Self(key))
    }
}

fn checksum(prefix_and_key: &[u8]) -> [u8; 2] {
    let hash = Blake2b512::new()
        .chain_update(b"SS58PRE")
        .chain_update(prefix_and_key)
        .finalize();
    [hash[0], hash[1]]
}

// === impl Keypair ===

impl Keypair {
    /// The key whose secret is this seed (a "mini secret").
    ///
    /// # Panics
    ///
    /// Never: every 32 bytes are a seed.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let mini = MiniSecretKey::from_bytes(seed.as_slice()).expect("32 bytes are a seed");
        let keys = mini.expand_to_keypair(ExpansionMode::Ed25519);
        Self {
            hotkey: Hotkey(keys.public.to_bytes()),
            seed,
            keys,
        }
    }

    /// A new key, from the operating system's randomness.
    ///
    /// # Errors
    ///
    /// [`SecretError::Randomness`] when the operating system has none.
    pub fn generate() -> Result<Self, SecretError> {
        let mut seed = Zeroizing::new([0; 32]);
        SysRng
            .try_fill_bytes(seed.as_mut_slice())
            .map_err(|_| SecretError::Randomness)?;
        Ok(Self::from_seed(*seed))
    }

    /// The key of a secret in text: 64 hex digits, `0x` before them or not, or the name of a
    /// public development key such as `//Alice` or `//Alice//2`.
    ///
    /// # Errors
    ///
    /// [`SecretError::Form`] for any other text.
    pub fn from_secret(text: &str) -> Result<Self, SecretError> {
        if let Some(path) = text.strip_prefix("//") {
            return Self::development(path);
        }
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, seed.as_mut_slice()).map_err(|_| SecretError::Form)?;
        Ok(Self::from_seed(*seed))
    }

    /// The development key at the end of a path of hard junctions.
    fn development(path: &str) -> Result<Self, SecretError> {
        let mut at = Self::from_seed(DEV_ROOT);
        for junction in path.split("//") {
            let code = chain_code(junction).ok_or(SecretError::Form)?;
            let (mini, _) = at.keys.secret.hard_derive_mini_secret_key(Some(code), b"");
            at = Self::from_seed(mini.to_bytes());
        }
        Ok(at)
    }

    /// The public half.
    #[must_use]
    pub const fn hotkey(&self) -> Hotkey {
        self.hotkey
    }

    pub(super) const fn keys(&self) -> &schnorrkel::Keypair {
        &self.keys
    }

    /// Reads a key file.
    ///
    /// # Errors
    ///
    /// A file that everyone may read is refused, as is one that names another address than
    /// that of its secret.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let file = std::fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        // The group may read it: orchestrators hand secrets to a group.
        if mode & 0o007 != 0 {
            return Err(KeyFileError::Exposed { mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text)?;
        let mut parsed: KeyFile = serde_json::from_str(&text).map_err(|_| KeyFileError::Form)?;
        let keypair = Self::from_secret(&parsed.secret_seed);
        parsed.secret_seed.zeroize();
        let keypair = keypair?;
        match parsed.ss58_address {
            Some(address) if address != keypair.hotkey.to_string() => {
                Err(KeyFileError::OtherAddress)
            }
            Some(_) | None => Ok(keypair),
        }
    }

    /// Writes a new key file, durably.
    ///
    /// # Errors
    ///
    /// The file system's; a file that is there already is left alone.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        let mut content = KeyFile {
            ss58_address: Some(self.hotkey.to_string()),
            secret_seed: format!("0x{}", hex::encode(self.seed.as_slice())),
        };
        let text = serde_json::to_string_pretty(&content).map(Zeroizing::new);
        content.secret_seed.zeroize();
        let text = text.map_err(|_| KeyFileError::Form)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        // Without this the name may be gone after a crash.
        let folder = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."));
        std::fs::File::open(folder)?.sync_all()?;
        Ok(())
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keypair")
            .field("hotkey", &self.hotkey)
            .finish_non_exhaustive()
    }
}

/// A junction as Substrate codes it: a number as 8 bytes, a name with its length before it.
fn chain_code(junction: &str) -> Option<ChainCode> {
    let mut code = [0; 32];
    if junction.is_empty() || junction.contains('/') || junction.len() > JUNCTION_LEN_MAX {
        return None;
    }
    if let Ok(number) = junction.parse::<u64>() {
        code[..8].copy_from_slice(&number.to_le_bytes());
    } else {
        // SCALE's compact form of a length below 64.
        code[0] = u8::try_from(junction.len()).ok()? << 2;
        code[1..=junction.len()].copy_from_slice(junction.as_bytes());
    }
    Some(ChainCode(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    const BOB: &str = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty";

    #[test]
    fn development_names_give_the_public_development_keys() {
        for (name, address) in [("//Alice", ALICE), ("//Bob", BOB)] {
            let keypair = Keypair::from_secret(name).unwrap();
            assert_eq!(keypair.hotkey().to_string(), address);
        }
        let alice_1 = Keypair::from_secret("//Alice//1").unwrap().hotkey();
        assert_ne!(alice_1, Keypair::from_secret("//Alice").unwrap().hotkey());
        for bad in ["", "//", "//Alice//", "//Alice/soft", "0x00", "Alice", "0x"] {
            assert_eq!(Keypair::from_secret(bad).unwrap_err(), SecretError::Form);
        }
    }

    #[test]
    fn an_address_gives_back_its_key_and_nothing_else_does() {
        let alice: Hotkey = ALICE.parse().unwrap();
        assert_eq!(alice.to_string(), ALICE);
        let changed = |bytes: &dyn Fn(&mut Vec<u8>)| {
            let mut raw = bs58::decode(ALICE).into_vec().unwrap();
            bytes(&mut raw);
            bs58::encode(raw).into_string().parse::<Hotkey>()
        };
        assert_eq!(changed(&|raw| raw[34] ^= 1), Err(AddressError::Checksum));
        assert_eq!(changed(&|raw| raw[7] ^= 1), Err(AddressError::Checksum));
        assert_eq!(changed(&|raw| raw.push(0)), Err(AddressError::Form));
        assert_eq!(changed(&|raw| raw.truncate(34)), Err(AddressError::Form));
        // Prefix 0 (Polkadot), with a checksum that is right for it.
        let polkadot = "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5";
        assert_eq!(polkadot.parse::<Hotkey>(), Err(AddressError::Prefix(0)));
        for bad in ["", " ", "0x00", &format!("{ALICE} "), &"5".repeat(100_000)] {
            assert_eq!(bad.parse::<Hotkey>(), Err(AddressError::Form));
        }
    }

    #[test]
    fn a_key_file_comes_back_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hotkey.json");
        let keypair = Keypair::generate().unwrap();
        keypair.save(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(Keypair::load(&path).unwrap().hotkey(), keypair.hotkey());

        assert!(matches!(keypair.save(&path), Err(KeyFileError::Io(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Keypair::load(&path),
            Err(KeyFileError::Exposed { mode: 0o644 })
        ));
    }

    #[test]
    fn a_key_file_of_another_address_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hotkey.json");
        let seed = "11".repeat(32);
        let write = |text: String| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            Keypair::load(&path)
        };
        let foreign = write(format!(
            r#"{{"ss58Address":"{ALICE}","secretSeed":"0x{seed}"}}"#
        ));
        assert!(matches!(foreign, Err(KeyFileError::OtherAddress)));
        assert!(write(format!(r#"{{"secretSeed":"{seed}","accountId":"0x"}}"#)).is_ok());
        assert!(matches!(write("{}".into()), Err(KeyFileError::Form)));
    }

    #[test]
    fn a_secret_is_never_printed() {
        let keypair = Keypair::from_seed([0xab; 32]);
        let shown = format!("{keypair:?}");
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    }
}
