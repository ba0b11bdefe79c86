//! What an operator is told before a gateway runs, and while it does.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use taugate::identity::hotkey::Keypair;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::miner::{Act, FakeMiner};
use crate::support::process::{Place, Process, find};
use crate::support::wire::fetch;
use crate::support::{Heard, TestGateway, chat};

#[tokio::test]
async fn a_look_at_a_configuration_finds_what_would_not_start() {
    let place = Place::new(
        "[keys]\nrequired = false\n[registry]\nopen_registration = true\nunauthenticated_miners = true\n[tasks.tiny]\n\
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
        .replace(
            "open_registration = true",
            "metagraph = \"nofile.json\"\nopen_registration = false",
        )
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
        "registry.metagraph",
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
    let place = Place::new(
        "[registry]\nopen_registration = true\nunauthenticated_miners = true\n[tasks.tiny]\n",
    );
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
    let place = Place::new(
        "[registry]\nopen_registration = true\nunauthenticated_miners = true\n[tasks.tiny]\n",
    );
    let made = place.run(&["key", "create", "my-app"]).await;
    let key = String::from_utf8(made.stdout).expect("text");
    let id = key.split('_').nth(2).expect("a key").to_owned();
    let older = rusqlite::Connection::open(place.store()).expect("the store");
    older
        .execute_batch(
            "ALTER TABLE store DROP COLUMN copied;
             ALTER TABLE api_key DROP COLUMN sample_permille; DROP TABLE planner; DROP TABLE plan;
             DROP TABLE burst; DROP TABLE demonstration; DROP TABLE finding; DROP TABLE history;
             DROP TABLE receipt;
             CREATE TABLE receipt (
                 period, inc, off, call, origin, finish, quality, units, prompt_units,
                 admitted_ms, claim, client, task, held, attempts, digest, labels, crc);
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

/// An answer of the admin listener as JSON.
async fn told(admin: SocketAddr, path: &str) -> Value {
    let answer = fetch(admin, path).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains("application/json"), "{head}");
    serde_json::from_str(body).expect("JSON")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Three whole answers; what the client was told that they cost.
async fn calls(gateway: &Process) -> u64 {
    let mut client = gateway.client("").await;
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    let (mut whole, mut units) = (0, 0);
    while whole < 3 {
        // Until the router knows a miner that has just declared, it is refused.
        assert!(tokio::time::Instant::now() < limit, "{whole} answers");
        let heard = Heard::of(client.stream_generate(chat("hello")).await).await;
        let Some(completed) = heard.completed else {
            assert_eq!(heard.reason(), "NO_MINER");
            continue;
        };
        assert!(completed.recorded);
        units += completed.usage.expect("usage").units;
        whole += 1;
    }
    units
}

#[tokio::test]
async fn status_adds_up_to_what_clients_were_told_over_restarts() {
    // So long that the test does not see it turn.
    let place = Place::new(
        "[period]\nlength_s = 86400\n[keys]\nrequired = false\n\
         [registry]\nopen_registration = true\nunauthenticated_miners = true\n[tasks.tiny]\n",
    );
    let miner = FakeMiner::start(vec![Act::Say("whole".into()), Act::Complete(1)]).await;
    miner.prove("//One");
    let key = Keypair::from_secret("//One")
        .expect("a key")
        .hotkey()
        .to_string();
    let mut units = 0;
    for started in 1..=2 {
        let gateway = place.start().await;
        gateway.declare("//One", miner.address, 100_000).await;
        units += calls(&gateway).await;
        let admin = gateway.admin().to_string();

        let overview = told(gateway.admin(), "/v1/status").await;
        let row = &overview["cells"][0];
        assert_eq!(row["miner"], key.as_str());
        assert_eq!(row["declared"], 2_400_000, "for a day");
        assert_eq!(row["posted"], units);
        assert_eq!(row["organic"], units);
        assert_eq!(
            (&row["synthetic"], &row["reserved"]),
            (&0.into(), &0.into())
        );
        assert_eq!(
            (&row["state"], &row["success"]),
            (&"free".into(), &1.0.into())
        );
        assert_eq!(row["due"], Value::Null);

        let shown = place.run(&["status", "--admin", &admin, "--json"]).await;
        assert!(shown.status.success(), "{shown:?}");
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        assert_eq!(shown["cells"], overview["cells"]);

        let table = place
            .run(&["status", "--admin", &admin, "--sort", "-posted"])
            .await;
        let table = text(&table.stdout);
        let line = table
            .lines()
            .find(|line| line.contains(&key[key.len() - 4..]));
        let figures: Vec<&str> = line.expect("the miner").split_whitespace().collect();
        assert_eq!(figures[1], "2.400M", "{table}");
        assert_eq!(figures[4], units.to_string(), "{table}");

        let miner = place
            .run(&["status", "--admin", &admin, "--miner", &key[..6]])
            .await;
        let miner = text(&miner.stdout);
        assert!(miner.contains(&key), "{miner}");
        assert!(
            miner.contains(&format!("posted {units}: {units} organic")),
            "{miner}"
        );
        let detail = told(gateway.admin(), &format!("/v1/status/miners/{key}")).await;
        let cell = &detail["cells"][0];
        assert_eq!(cell["attempts"]["good"], 3 * started);
        assert!(
            cell["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0),
            "{cell}"
        );
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_miner_that_left_is_shown_as_long_as_something_of_it_is_booked() {
    let gateway = TestGateway::start().await;
    let miner = FakeMiner::start(vec![Act::Say("whole".into()), Act::Complete(1)]).await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    gateway.declare("//Two", &miner, 100_000, 4).await;
    let heard = gateway.ask(chat("hello")).await;
    let served = heard.started.expect("an answer").miner;
    for name in ["//One", "//Two"] {
        let hotkey = Keypair::from_secret(name).expect("a key").hotkey();
        let registry = gateway.gateway.registry();
        registry
            .withdraw(hotkey, u64::MAX >> 1)
            .await
            .expect("it is taken back");
    }
    let posted = gateway.posted().await;
    let overview = told(gateway.gateway.addresses().admin, "/v1/status").await;
    let cells = overview["cells"].as_array().expect("rows");
    assert_eq!(cells.len(), 1, "{cells:#?}");
    assert_eq!(cells[0]["miner"], served.as_str());
    assert_eq!(cells[0]["posted"], posted);
    assert_eq!(cells[0]["state"], "withdrawn");
}

#[tokio::test]
async fn a_status_that_cannot_be_had_says_why() {
    let place = Place::new(
        "[keys]\nrequired = false\n[registry]\nopen_registration = true\nunauthenticated_miners = true\n[tasks.tiny]\n",
    );
    let gateway = place.start().await;
    let (admin, public) = (gateway.admin().to_string(), gateway.public().to_string());
    let nobody = "127.0.0.1:1".to_owned();
    let no_miner = Keypair::from_secret("//One")
        .expect("a key")
        .hotkey()
        .to_string();
    let tries: [(&str, &[&str], i32, &str); 6] = [
        (&nobody, &[], 4, "no gateway answers at 127.0.0.1:1"),
        (&public, &[], 4, "no admin listener of a gateway speaks at"),
        (
            &admin,
            &["--miner", "5nobody"],
            2,
            "no miner's hotkey begins with 5nobody",
        ),
        (
            &admin,
            &["--miner", &no_miner],
            2,
            "no miner's hotkey begins with",
        ),
        (
            "nowhere",
            &[],
            2,
            "nowhere is no address of an admin listener",
        ),
        (&admin, &["--sort", "postd"], 2, "no column is called postd"),
    ];
    for (address, more, code, why) in tries {
        let arguments = [&["status", "--admin", address], more].concat();
        let ended = place.run(&arguments).await;
        let complaint = text(&ended.stderr);
        assert_eq!(
            ended.status.code(),
            Some(code),
            "{arguments:?}: {complaint}"
        );
        assert!(complaint.contains(why), "{arguments:?}: {complaint}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_status_that_is_followed_repeats_itself_and_ends_cleanly() {
    let place = Place::new(
        "[keys]\nrequired = false\n[registry]\nopen_registration = true\nunauthenticated_miners = true\n[tasks.tiny]\n",
    );
    let gateway = place.start().await;
    let mut following = tokio::process::Command::new(env!("CARGO_BIN_EXE_taugate"));
    following.args(["status", "--watch", "--admin", &gateway.admin().to_string()]);
    let mut following = following
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(following.stdout.take().expect("it is piped")).lines();
    let mut blocks = 0;
    while blocks < 2 {
        let line = lines.next_line().await.expect("text").expect("it goes on");
        assert!(
            !line.contains('\u{1b}'),
            "nothing is redrawn where nothing can be: {line}"
        );
        blocks += usize::from(line.starts_with("validator "));
    }
    let id = following.id().expect("it runs").to_string();
    let sent = tokio::process::Command::new("kill")
        .args(["-INT", &id])
        .status();
    assert!(sent.await.expect("kill runs").success());
    let ended = tokio::time::timeout(Duration::from_secs(30), following.wait()).await;
    assert_eq!(ended.expect("it ends").expect("its state").code(), Some(0));
    gateway.stop().await;
}

#[tokio::test]
async fn weights_sum_to_1_and_each_is_explained() {
    let place = Place::new(
        "[period]\nlength_s = 86400\n[keys]\nrequired = false\n\
         [registry]\nopen_registration = true\n[tasks.tiny]\n",
    );
    let away = place.run(&["weights", "--admin", "127.0.0.1:1"]).await;
    assert_eq!(away.status.code(), Some(4), "{away:?}");
    let told = text(&away.stderr);
    assert!(told.contains("no gateway answers at 127.0.0.1:1"), "{told}");

    let gateway = place.start().await;
    let admin = gateway.admin().to_string();
    let none = place.run(&["weights", "--admin", &admin]).await;
    assert_eq!(text(&none.stdout).trim(), "no miner offers anything yet");

    let miner = FakeMiner::start(vec![Act::Say("whole".into()), Act::Complete(1)]).await;
    miner.prove("//One");
    gateway.declare("//One", miner.address, 100_000).await;
    calls(&gateway).await;
    let raw = rusqlite::Connection::open(place.store()).expect("the store");
    let cell = "SELECT cell, period FROM lease JOIN subject ON id = cell AND kind = 0";
    let cell: (u32, i64) = raw
        .query_row(cell, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("a cell");
    let period = u64::try_from(cell.1).expect("a time");
    find(&place.store(), (cell.0, period), 500_000);
    let key = Keypair::from_secret("//One")
        .expect("a key")
        .hotkey()
        .to_string();

    let json = place
        .run(&["weights", "--admin", &admin, "--format", "json"])
        .await;
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["profile"], "taugate");
    let row = &json["weights"][0];
    assert_eq!(
        (&row["uid"], &row["hotkey"]),
        (&Value::Null, &key.as_str().into())
    );
    assert_eq!(row["weight"], 1.0);
    let csv = place
        .run(&["weights", "--admin", &admin, "--format", "csv"])
        .await;
    assert_eq!(text(&csv.stdout), format!("uid,hotkey,weight\n,{key},1\n"));
    let table = place.run(&["weights", "--admin", &admin]).await;
    let table = text(&table.stdout);
    assert!(
        table.contains(&key) && table.contains("1.000000"),
        "{table}"
    );

    let explained = place
        .run(&["weights", "--admin", &admin, "--explain", &key])
        .await;
    let explained = text(&explained.stdout);
    for line in [
        "n 3 = 3 good + 0 busy + 0 failed",
        "Q = mean of quality x s over 1 answers (1 to this task) = 0.5",
        "C = allotment = 576000",
        "weight = S / sum of S over all miners = 1 / 1 = 1",
    ] {
        assert!(explained.contains(line), "{line}: {explained}");
    }
    let unknown = place
        .run(&["weights", "--admin", &admin, "--profile", "no&such"])
        .await;
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    let told = text(&unknown.stderr);
    assert!(told.contains("there are taugate, vision-4.0"), "{told}");
    let status = place.run(&["status", "--admin", &admin, "--json"]).await;
    assert!(status.status.success());
    gateway.stop().await;
}
