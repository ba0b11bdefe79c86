//! Streams as the servers of this world write them: they differ in line ends, comments,
//! nulls, names and order, and are read alike. What would pass for a whole answer and is
//! none is never taken for one.

use taugate::proto::v1;
use tonic::Code;

use crate::model_server::Script;
use crate::{Answer, Miner, chat};

/// What has to come out of a transcript.
#[derive(Debug, Default)]
struct Expected {
    content: &'static str,
    reasoning: &'static str,
    refusal: &'static str,
    /// Names and arguments of calls.
    calls: &'static [(&'static str, &'static str)],
    finish: v1::FinishReason,
    /// Prompt, completion, cached and reasoning tokens.
    claimed: [Option<u64>; 4],
}

/// Opens with a role, has nulls for what is not there, counts in a chunk of its own.
const NULLS: &str = r#"data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}

data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":null,"content":"Grüße","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"","tool_calls":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":null}

data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}

data: [DONE]

"#;

/// Counts along in every chunk, keeps the connection alive by comments, ends with the
/// length, and has a last count after that.
const COUNTS_ALONG: &str = r#": keep-alive

data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning":"hm"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}

: keep-alive

data: {"choices":[{"index":0,"delta":{"content":"ab","reasoning":""},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":1}}}

data: [DONE]

"#;

/// Says first what its filter thinks, in a chunk without choices; a refusal.
const FILTERS: &str = r#"data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}

data: {"choices":[{"content_filter_results":{},"delta":{"role":"assistant","content":null,"refusal":"No."},"finish_reason":null,"index":0,"logprobs":null}],"system_fingerprint":"f"}

data: {"choices":[{"content_filter_results":{},"delta":{},"finish_reason":"content_filter","index":0,"logprobs":null}]}

data: [DONE]

"#;

/// A call of a tool, its arguments in pieces; then a second one.
const CALLS_IN_PIECES: &str = r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"look","arguments":""}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":null,"function":{"name":null,"arguments":"{\"z\":"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":" 1}"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"wait","arguments":"{}"}}]}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: [DONE]

"#;

/// Whole calls at once, without numbers, one with arguments that are no text.
const CALLS_AT_ONCE: &str = r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"","tool_calls":[{"id":"a","type":"function","function":{"name":"look","arguments":{"z": 1, "a": [2]}}},{"id":"b","function":{"name":"wait","arguments":"{}"}}]},"finish_reason":null}]}

data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"function_call"}]}

data: [DONE]

"#;

/// Events of its own between, named ones, a line of data in two, a last one without its
/// empty line, no mark of an end; counts in a shape of their own.
const OWN_WAYS: &str = r#"event: ping
data: {"type": "ping"}

id: 7
retry: 100
event: message
data: {"choices":[{"index":0,
data: "delta":{"content":"one "}}]}

event: perf
data: not even JSON

data: {"choices":[{"delta":{"content":"two"},"finish_reason":"eos_token"}],"usage":{"prompt_tokens":-1},"timings":{"predicted_ms":1.5}}"#;

/// Cuts its text as its strings are cut, in the middle of a code point.
const HALVES: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"a \ud83e"}}]}

data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}

data: {"choices":[{"index":0,"delta":{"content":"\udd80 \ud83e\udd80 \ud83e."}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

data: [DONE]

"#;

fn servers() -> Vec<(&'static str, &'static str, Expected)> {
    use v1::FinishReason::{ContentFilter, Length, Stop, ToolCalls};
    vec![
        (
            "nulls",
            NULLS,
            Expected {
                content: "Grüße",
                finish: Stop,
                claimed: [Some(7), Some(2), Some(4), None],
                ..Expected::default()
            },
        ),
        (
            "counts along",
            COUNTS_ALONG,
            Expected {
                content: "ab",
                reasoning: "hm",
                finish: Length,
                claimed: [Some(3), Some(2), None, Some(1)],
                ..Expected::default()
            },
        ),
        (
            "filters",
            FILTERS,
            Expected {
                refusal: "No.",
                finish: ContentFilter,
                ..Expected::default()
            },
        ),
        (
            "calls in pieces",
            CALLS_IN_PIECES,
            Expected {
                calls: &[("look", r#"{"z": 1}"#), ("wait", "{}")],
                finish: ToolCalls,
                ..Expected::default()
            },
        ),
        (
            "calls at once",
            CALLS_AT_ONCE,
            Expected {
                calls: &[("look", r#"{"z": 1, "a": [2]}"#), ("wait", "{}")],
                finish: ToolCalls,
                ..Expected::default()
            },
        ),
        (
            "halves",
            HALVES,
            Expected {
                content: "a 🦀 🦀 \u{fffd}.",
                finish: Stop,
                ..Expected::default()
            },
        ),
        (
            "own ways",
            OWN_WAYS,
            Expected {
                content: "one two",
                finish: Stop,
                ..Expected::default()
            },
        ),
    ]
}

async fn read(transcript: &[u8], piece: usize) -> Result<Answer, tonic::Status> {
    let pieces = transcript.chunks(piece).map(<[u8]>::to_vec).collect();
    let (miner, _server) = Miner::over(Script::Pieces(pieces), 1).await;
    miner.ask(chat()).await
}

fn check(name: &str, answer: &Answer, expected: &Expected) {
    let all = |of: fn(&v1::Delta) -> &str| answer.deltas.iter().map(of).collect::<String>();
    assert_eq!(answer.content, expected.content, "{name}");
    assert_eq!(all(|delta| &delta.reasoning), expected.reasoning, "{name}");
    assert_eq!(all(|delta| &delta.refusal), expected.refusal, "{name}");
    let mut calls: Vec<(String, String)> = Vec::new();
    for fragment in answer.deltas.iter().flat_map(|delta| &delta.tool_calls) {
        calls.resize(calls.len().max(fragment.index as usize + 1), <_>::default());
        let call = &mut calls[fragment.index as usize];
        call.0.push_str(&fragment.name);
        call.1.push_str(&fragment.arguments);
    }
    let calls: Vec<_> = calls
        .iter()
        .map(|call| (call.0.as_str(), call.1.as_str()))
        .collect();
    assert_eq!(calls, expected.calls, "{name}");
    let completed = answer.completed.as_ref().expect("whole");
    let ends: Vec<_> = completed
        .choices
        .iter()
        .map(v1::ChoiceEnd::finish_reason)
        .collect();
    assert_eq!(ends, [expected.finish], "{name}");
    let claimed = completed.claimed.as_ref().unwrap();
    let claimed = [
        claimed.prompt,
        claimed.completion,
        claimed.cached_prompt,
        claimed.reasoning,
    ];
    assert_eq!(claimed, expected.claimed, "{name}");
}

#[tokio::test]
async fn streams_of_all_kinds_of_servers_are_read_alike() {
    for (name, transcript, expected) in servers() {
        for (ends, line_end) in [("LF", "\n"), ("CRLF", "\r\n"), ("CR", "\r")] {
            let transcript = transcript.replace('\n', line_end);
            for piece in [1, 7, usize::MAX] {
                let answer = read(transcript.as_bytes(), piece).await;
                let name = format!("{name}, {ends}, pieces of {piece}");
                let answer = answer.unwrap_or_else(|status| panic!("{name}: {status:?}"));
                check(&name, &answer, &expected);
            }
        }
    }
}

/// P7.
#[tokio::test]
async fn what_was_cut_short_never_passes_as_whole() {
    let begun = r#"data: {"choices":[{"index":0,"delta":{"content":"ab"}}]}"#;
    let end = |reason: &str| {
        format!(r#"data: {{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#)
    };
    let done = "data: [DONE]".to_owned();
    let broken = [
        vec![
            r#"data: {"error":{"message":"out of memory","code":500}}"#.to_owned(),
            done.clone(),
        ],
        vec![
            r#"data: {"error":"gone","error_type":"overloaded"}"#.to_owned(),
            done.clone(),
        ],
        vec![
            r#"data: {"object":"error","message":"gone","code":400}"#.to_owned(),
            done.clone(),
        ],
        vec![
            "event: error\ndata: {\"message\":\"gone\"}".to_owned(),
            done.clone(),
        ],
        vec![end("abort"), done.clone()],
        vec![end("cancelled"), done.clone()],
        vec![end("insufficient_system_resource"), done.clone()],
        vec![
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"c".to_owned(),
            done,
        ],
        vec!["data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"c".to_owned()],
        vec![r#"data: {"choices":[{"index":0,"delta":{"content":17}}]}"#.to_owned()],
        vec![],
    ];
    for rest in broken {
        let mut transcript = format!("{begun}\n\n");
        for event in &rest {
            transcript.push_str(event);
            transcript.push_str("\n\n");
        }
        let status = read(transcript.as_bytes(), usize::MAX).await;
        let code = status.map(|answer| answer.completed).unwrap_err().code();
        assert_eq!(code, Code::Aborted, "{transcript}");
    }
}

/// Log probabilities with bytes, without, with nulls, and in a shape of their own, which
/// costs no answer.
#[tokio::test]
async fn log_probabilities_arrive_and_cost_no_answer() {
    let transcript = r#"data: {"choices":[{"index":0,"delta":{"content":"é"},"logprobs":{"content":[{"token":"\u00e9","logprob":-0.25,"bytes":[195,169],"top_logprobs":[{"token":"\u00e9","logprob":-0.25,"bytes":[195,169]},{"token":"e","logprob":null,"bytes":null},{"token":"f","logprob":-2}]}],"refusal":null}}]}

data: {"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[{"id":3,"token":"a","logprob":-1.5}]}}]}

data: {"choices":[{"index":0,"delta":{"content":"b"},"logprobs":{"tokens":["b"],"token_logprobs":[-1]}}]}

data: {"choices":[{"index":0,"delta":{"content":"c"},"logprobs":[]}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

data: [DONE]

"#;
    let answer = read(transcript.as_bytes(), 3).await.unwrap();
    assert_eq!(answer.content, "éabc");
    let top = |token: &str, logprob, raw: &[u8]| v1::TopLogprob {
        token: token.to_owned(),
        logprob,
        raw: raw.to_vec(),
    };
    let first = v1::TokenLogprob {
        token: "é".to_owned(),
        logprob: -0.25,
        raw: "é".as_bytes().to_vec(),
        top: vec![top("é", -0.25, "é".as_bytes()), top("f", -2.0, &[])],
    };
    let second = v1::TokenLogprob {
        token: "a".to_owned(),
        logprob: -1.5,
        ..v1::TokenLogprob::default()
    };
    let told: Vec<_> = answer
        .deltas
        .iter()
        .map(|delta| delta.logprobs.clone())
        .collect();
    assert_eq!(told, [vec![first], vec![second], vec![], vec![]]);
}
