//! The client's deadline. tonic's own ends at response headers and answers CANCELLED; this
//! one is read here and kept by the call, which bounds its stream too.

use std::time::Duration;

use tokio::time::Instant;

/// When a client's time is up; in a request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Instant);

/// What a `grpc-timeout` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// Nothing.
    None,
    /// So much time.
    After(Duration),
    /// None is left.
    Passed,
    /// It is malformed, or stands twice.
    Malformed,
}

/// The shortest time that is worth a try.
const SHORTEST: Duration = Duration::from_millis(50);

// === impl Deadline ===

impl Deadline {
    /// So long from now.
    pub(super) fn after(timeout: Duration) -> Self {
        // A day is more than any task's total limit.
        const DAY: Duration = Duration::from_secs(86_400);
        Self(Instant::now() + timeout.clamp(SHORTEST, DAY))
    }

    /// The instant.
    #[must_use]
    pub const fn at(self) -> Instant {
        self.0
    }
}

/// Reads `grpc-timeout`: at most eight digits and a unit, once.
pub(super) fn parse(headers: &http::HeaderMap) -> Timeout {
    let mut values = headers.get_all("grpc-timeout").iter();
    match (values.next(), values.next()) {
        (None, _) => Timeout::None,
        (Some(value), None) => value.to_str().map_or(Timeout::Malformed, parse_text),
        (Some(_), Some(_)) => Timeout::Malformed,
    }
}

fn parse_text(text: &str) -> Timeout {
    let Some((digits, unit)) = text.split_at_checked(text.len().saturating_sub(1)) else {
        return Timeout::Malformed;
    };
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let Some(amount) = digits.parse::<u64>().ok().filter(|_| plain) else {
        return Timeout::Malformed;
    };
    let timeout = match unit {
        "H" => Duration::from_secs(amount.saturating_mul(3600)),
        "M" => Duration::from_secs(amount.saturating_mul(60)),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return Timeout::Malformed,
    };
    // What has no time for one round trip has passed: nothing is reserved for it.
    if timeout < Duration::from_millis(1) {
        Timeout::Passed
    } else {
        Timeout::After(timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_of_every_shape() {
        // Abuse case 17.
        let cases = [
            (
                "99999999H",
                Timeout::After(Duration::from_secs(99_999_999 * 3600)),
            ),
            ("100m", Timeout::After(Duration::from_millis(100))),
            ("1n", Timeout::Passed),
            ("0S", Timeout::Passed),
            ("-1S", Timeout::Malformed),
            ("+100m", Timeout::Malformed),
            ("123456789S", Timeout::Malformed),
            ("S", Timeout::Malformed),
            ("", Timeout::Malformed),
            ("10", Timeout::Malformed),
            ("1é", Timeout::Malformed),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_text(text), expected, "{text:?}");
        }
        let mut headers = http::HeaderMap::new();
        assert_eq!(parse(&headers), Timeout::None);
        headers.append("grpc-timeout", http::HeaderValue::from_static("1S"));
        headers.append("grpc-timeout", http::HeaderValue::from_static("1S"));
        assert_eq!(parse(&headers), Timeout::Malformed);
    }
}
