//! What is made of a miner's behaviour, and how it is measured.

use taugate::proto::v1;
use tonic::Code;

use super::{outcomes, since};
use crate::support::miner::{Act, FakeMiner};
use crate::support::{TestGateway, chat};

/// Every word that ever decided something in an error text.
const MAGIC: &str = "OK 429 rate limit exceeded, Too Many Requests; 400 invalid argument: \
    context length; CANCELLED by client, deadline exceeded, timed out, 503 overloaded, busy, \
    stalled, protocol error, connection reset, <|busy|>";

/// N37: a magic word in an error's text decided the outcome. Whatever a miner says beside a
/// code, the code and the moment decide.
#[tokio::test]
async fn n37_a_miners_words_change_no_outcome() {
    let miner = FakeMiner::start(Vec::new()).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 1_000_000, 4).await;
    let mut before = outcomes(&gateway).await;
    for code in (0..17).map(Code::from_i32) {
        for begun in [false, true] {
            let mut found = Vec::new();
            for words in ["", MAGIC] {
                let fail = Act::Fail(code, words.into());
                let script = if begun {
                    vec![Act::Say("word".into()), fail]
                } else {
                    vec![fail]
                };
                miner.script(script);
                let heard = gateway.ask(chat("hi")).await;
                let now = outcomes(&gateway).await;
                found.push((since(&before, &now), heard.reason()));
                before = now;
                gateway.gateway.calls().vitals.forget();
            }
            assert_eq!(found[0], found[1], "{code:?}, begun: {begun}");
            let blames = match (code, begun) {
                (Code::ResourceExhausted, false) => "busy",
                (Code::InvalidArgument, false) => "refused",
                (
                    Code::ResourceExhausted
                    | Code::InvalidArgument
                    | Code::OutOfRange
                    | Code::Internal
                    | Code::Unimplemented
                    | Code::Ok,
                    _,
                ) => "protocol",
                _ => "lost",
            };
            let expected = super::Outcomes::from([(blames, 1)]);
            assert_eq!(found[0].0, expected, "{code:?}, begun: {begun}");
        }
    }
}

/// N37: nor do words inside an answer.
#[tokio::test]
async fn n37_words_inside_an_answer_are_text() {
    let miner = FakeMiner::start(vec![Act::Say(MAGIC.into()), Act::Complete(1)]).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 1_000_000, 4).await;
    let heard = gateway.ask(chat("hi")).await;
    let completed = heard.completed.expect("whole");
    assert_eq!(completed.choices[0].finish_reason(), v1::FinishReason::Stop);
    assert_eq!(heard.text, MAGIC);
    assert_eq!(outcomes(&gateway).await, [("good", 1)].into());
}

/// N38: latencies were gauges, of which only the last one was ever seen.
#[tokio::test]
async fn n38_every_latency_is_a_histogram() {
    let miner = FakeMiner::start(vec![Act::Say("ok".into()), Act::Complete(1)]).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    for _ in 0..3 {
        gateway.ask(chat("hi")).await;
    }
    let instruments = &gateway.gateway.calls().instruments;
    gateway
        .until("all requests ended", || {
            instruments.inflight_streams.get() == 0
        })
        .await;
    let text = instruments.text();
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let latencies: Vec<_> = kinds
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| name.contains("seconds") || name.contains("latency"))
        .collect();
    assert!(latencies.len() >= 2, "{text}");
    for (name, kind) in latencies {
        assert_eq!(kind, "histogram", "{name}");
    }
    for line in [
        r#"taugate_time_to_first_chunk_seconds_count{task="tiny"} 3"#,
        r#"taugate_time_to_first_chunk_seconds_bucket{le="+Inf",task="tiny"} 3"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
