//! Keys of clients that may check.

use taugate::identity::api_key::KeyStore as _;
use taugate::identity::hotkey::Keypair;
use taugate::identity::key_ring::{KeyGrant, NewKey};
use taugate::proto::v1;
use taugate::store::sqlite::{SqliteSettings, SqliteStore};

/// Puts a key that may check into a store that no gateway uses yet.
pub(crate) fn put_check_key(
    path: std::path::PathBuf,
    length: taugate_ledger::period::PeriodLength,
) -> String {
    let key = NewKey::make(
        "test",
        KeyGrant {
            check: true,
            ..KeyGrant::default()
        },
        0,
    )
    .expect("a key");
    let stored = key.stored.clone();
    // The store is asynchronous, what changes a configuration is not.
    let put = std::thread::spawn(move || {
        let clock = std::sync::Arc::new(taugate::clock::SystemClock);
        let store = SqliteStore::open(&path, SqliteSettings::default(), clock, length);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime
            .block_on(store.expect("the store opens").put_key(stored))
            .expect("it is kept");
    });
    put.join().expect("no panic");
    key.text().to_owned()
}

/// A request as a check of the miner of that development key.
pub(crate) fn checking(
    mut request: v1::GenerateRequest,
    name: &str,
    key: &str,
) -> tonic::Request<v1::GenerateRequest> {
    let miner = Keypair::from_secret(name)
        .expect("a key")
        .hotkey()
        .to_string();
    request.check = Some(v1::CheckTarget { miner });
    let mut request = tonic::Request::new(request);
    let bearer = format!("Bearer {key}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", bearer);
    request
}
