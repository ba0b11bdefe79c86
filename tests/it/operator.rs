//! What an operator is told before a gateway runs.

use crate::support::process::Place;

#[tokio::test]
async fn a_look_at_a_configuration_finds_what_would_not_start() {
    let place = Place::new(
        "[keys]\nrequired = false\n[registry]\nopen_registration = true\n[tasks.tiny]\n\
         [scores]\nspeed_at = 0.5\n",
    );
    let looked = place.run(&["gateway", "--check"]).await;
    assert!(looked.status.success(), "{looked:?}");
    let remarks = String::from_utf8_lossy(&looked.stderr).into_owned();
    let idle = "scores.speed_at: counts with quality = \"ranked\" only";
    assert!(remarks.contains(idle), "{remarks}");
    assert!(!place.store().exists(), "a look makes nothing");

    let text = std::fs::read_to_string(place.config()).expect("a configuration");
    let broken = text
        .replace("[telemetry]\n", "[telemetry]\nfilter = \"inf==\"\n")
        .replace("[gateway]\n", "[gateway]\nhotkey_file = \"nofile\"\n")
        .replace(
            "[listen]\n",
            "[listen]\ncert_file = \"no.pem\"\nkey_file = \"no.key\"\n",
        )
        .replace("taugate.db", "nowhere/taugate.db");
    std::fs::write(place.config(), broken).expect("it is written");
    let looked = place.run(&["gateway", "--check"]).await;
    assert_eq!(looked.status.code(), Some(64), "{looked:?}");
    let told = String::from_utf8(looked.stderr).expect("text");
    for field in [
        "telemetry.filter",
        "gateway.hotkey_file",
        "listen.cert_file",
        "store.path",
    ] {
        assert!(
            told.contains(&format!("taugate: {field}")),
            "{field}: {told}"
        );
    }
}

#[tokio::test]
async fn keys_that_would_be_useless_are_not_made_and_none_is_no_table() {
    let place = Place::new("[registry]\nopen_registration = true\n[tasks.tiny]\n");
    let listed = place.run(&["key", "list"]).await;
    assert!(listed.status.success(), "{listed:?}");
    let told = String::from_utf8(listed.stderr).expect("text");
    assert!(told.contains("no key yet in the store"), "{told}");
    assert!(!place.store().exists(), "a list makes no store");
    for useless in [vec!["name", "--days", "0"], vec![""]] {
        let made = place.run(&[vec!["key", "create"], useless].concat()).await;
        assert_eq!(made.status.code(), Some(2), "{made:?}");
    }
    let made = place.run(&["key", "create", "name", "--task", "tny"]).await;
    assert!(made.status.success(), "{made:?}");
    let told = String::from_utf8(made.stderr).expect("text");
    assert!(told.contains("names no task tny"), "{told}");
}

/// A store that an older version left: nothing is brought to today's schema yet.
#[tokio::test]
async fn keys_of_an_older_store_are_listed_and_revoked() {
    let place = Place::new("[registry]\nopen_registration = true\n[tasks.tiny]\n");
    let made = place.run(&["key", "create", "my-app"]).await;
    let key = String::from_utf8(made.stdout).expect("text");
    let id = key.split('_').nth(2).expect("a key").to_owned();
    let older = rusqlite::Connection::open(place.store()).expect("the store");
    older
        .execute_batch(
            "ALTER TABLE store DROP COLUMN copied; DROP TABLE planner; DROP TABLE plan;
             DROP TABLE burst; DROP TABLE demonstration; DROP TABLE finding; DROP TABLE history;
             PRAGMA user_version = 4;",
        )
        .expect("it is as version 4 left it");
    drop(older);
    let revoked = place.run(&["key", "revoke", &id]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    let listed = place.run(&["key", "list"]).await;
    let told = String::from_utf8(listed.stdout).expect("text");
    assert!(told.contains(&id) && told.contains("revoked"), "{told}");

    // A store that is gone is no store without keys.
    std::fs::remove_file(place.store()).expect("it was there");
    let listed = place.run(&["key", "list"]).await;
    let told = String::from_utf8(listed.stderr).expect("text");
    assert!(
        !listed.status.success() && told.contains("the store is gone"),
        "{told}"
    );
}
