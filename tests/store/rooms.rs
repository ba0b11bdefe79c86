//! Rows that other rooms keep here.

use taugate::identity::api_key::{KeyStore as _, Scope, StoredKey};
use taugate::identity::nonce::NonceStore as _;
use taugate::registry::declaration::{DeclarationRow, DeclarationStore as _, Put, Subject};
use taugate_ledger::ids::CellId;

use crate::place::{NOW_MS, Place, hotkey};

#[tokio::test]
async fn subjects_are_numbered_once_and_densely() {
    let place = Place::new();
    let store = place.open();
    let miner = |number, task: &str| Subject::Miner {
        hotkey: hotkey(number),
        task: task.into(),
    };
    let subjects = [
        miner(1, "a"),
        miner(1, "b"),
        miner(2, "a"),
        Subject::Ceiling { task: "a".into() },
        Subject::Client { key: "a".into() },
    ];
    for (number, subject) in (0..).zip(&subjects) {
        let cell = store.subject(subject.clone()).await.unwrap();
        assert_eq!(cell, CellId(number));
    }
    drop(store);
    let store = place.open();
    assert_eq!(store.subject(subjects[3].clone()).await, Ok(CellId(3)));
}

#[tokio::test]
async fn the_newest_declaration_stands() {
    let place = Place::new();
    let store = place.open();
    let declared = |sequence, payload: &'static str| DeclarationRow {
        hotkey: hotkey(1),
        sequence,
        payload: payload.into(),
        signature: [9; 64],
        endpoint: "http://127.0.0.1:1".into(),
        accepted_ms: NOW_MS,
        withdrawn: false,
    };
    assert_eq!(
        store.put_declaration(declared(5, "x")).await,
        Ok(Put::Stored)
    );
    let mut moved = declared(5, "x");
    moved.endpoint = "http://127.0.0.1:2".into();
    assert_eq!(store.put_declaration(moved.clone()).await, Ok(Put::Same));
    assert_eq!(store.declarations().await, Ok(vec![moved]));
    assert_eq!(
        store.put_declaration(declared(5, "y")).await,
        Ok(Put::Stale)
    );
    assert_eq!(
        store.put_declaration(declared(4, "x")).await,
        Ok(Put::Stale)
    );
    assert_eq!(store.withdraw(hotkey(1), 4).await, Ok(false));
    assert_eq!(store.withdraw(hotkey(1), 7).await, Ok(true));
    assert_eq!(store.withdraw(hotkey(2), 7).await, Ok(false));
    assert_eq!(
        store.put_declaration(declared(7, "x")).await,
        Ok(Put::Stale)
    );
    assert_eq!(
        store.put_declaration(declared(8, "x")).await,
        Ok(Put::Stored)
    );
    drop(store);
    let rows = place.open().declarations().await.unwrap();
    assert_eq!(rows, [declared(8, "x")]);
}

#[tokio::test]
async fn a_nonce_is_good_once_and_keys_are_kept() {
    let place = Place::new();
    let store = place.open();
    let keep = NOW_MS + 20_000;
    assert_eq!(store.spend_nonce(hotkey(1), [1; 16], keep).await, Ok(true));
    assert_eq!(store.spend_nonce(hotkey(1), [1; 16], keep).await, Ok(false));
    assert_eq!(store.spend_nonce(hotkey(2), [1; 16], keep).await, Ok(true));
    let key = StoredKey {
        public_id: "abcdefgh".into(),
        sha256: [3; 32],
        name: "a name".into(),
        tasks: Some(vec!["chat".into(), "with \"quotes\" and, commas".into()]),
        scopes: vec![Scope::Generate, Scope::Check],
        proven_only: true,
        sample_permille: 250,
        created_ms: NOW_MS,
        expires_ms: Some(NOW_MS + 1),
        revoked_ms: None,
        last_used_ms: Some(NOW_MS),
    };
    store.put_key(key.clone()).await.unwrap();
    drop(store);
    let store = place.open();
    assert_eq!(store.keys().await.unwrap(), [key]);
    assert_eq!(store.revoke_key("nobody00".into(), NOW_MS).await, Ok(false));
    assert_eq!(store.revoke_key("abcdefgh".into(), 5).await, Ok(true));
    assert_eq!(store.revoke_key("abcdefgh".into(), 9).await, Ok(true));
    assert_eq!(store.keys().await.unwrap()[0].revoked_ms, Some(5));
    assert_eq!(store.spend_nonce(hotkey(1), [1; 16], keep).await, Ok(false));
}
