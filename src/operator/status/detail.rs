//! All of one miner, nothing shortened.

use super::table::{UNKNOWN, moment, percent};
use crate::admin::status::{Attempts, Cell, Detail};

/// All of it.
pub(super) fn text(detail: &Detail) -> String {
    let uid = detail.uid.map(|uid| format!(", uid {uid}"));
    let mut text = format!(
        "miner {}{}, number {} in metrics\ndeclaration {}, {}",
        detail.miner,
        uid.unwrap_or_default(),
        detail.number,
        detail.sequence,
        if detail.withdrawn {
            "taken back".to_owned()
        } else {
            format!("valid until {}", moment(detail.valid_until_ms / 1000))
        },
    );
    for cell in &detail.cells {
        text.push_str(&of_task(cell));
    }
    if detail.cells.is_empty() {
        text.push_str("\n\nnothing of it is offered or was booked in this period");
    }
    text
}

fn of_task(cell: &Cell) -> String {
    let row = &cell.row;
    let known = |number: Option<u64>| number.map_or_else(|| UNKNOWN.to_owned(), |n| n.to_string());
    let ms = |ms: Option<f64>| ms.map_or_else(|| UNKNOWN.to_owned(), |ms| format!("{ms:.1} ms"));
    let at_once = row.concurrency.map(|most| format!(" of {most}"));
    let score = row.score.map(|score| format!("{score:.6}"));
    format!(
        "\n\n{}\n  a period   declared {}, allotment {}, verified {}\n  \
         this one   granted {}, reserved {}, posted {}: {} organic, {} synthetic\n  \
         checks     due {}, score {}\n  \
         now        {}, {}{} in flight, success {}\n  \
         attempts   {}\n  \
         latency    first chunk {}, whole {} (means of good ones); {} a unit, lately",
        row.task,
        row.declared,
        row.allotment,
        row.verified,
        row.granted,
        row.reserved,
        row.posted,
        row.organic,
        row.synthetic,
        known(row.due),
        score.as_deref().unwrap_or(UNKNOWN),
        row.state.as_str(),
        row.in_flight,
        at_once.unwrap_or_default(),
        row.success.map_or_else(|| UNKNOWN.to_owned(), percent),
        attempts(&cell.attempts),
        ms(cell.first_chunk_ms),
        ms(cell.duration_ms),
        ms(cell.unit_ms),
    )
}

fn attempts(attempts: &Attempts) -> String {
    let Attempts {
        good,
        busy,
        refused,
        cancelled,
        lost,
        stalled,
        protocol,
    } = attempts;
    format!(
        "{good} good, {busy} busy, {refused} refused, {cancelled} cancelled, {lost} lost, \
         {stalled} stalled, {protocol} broke the protocol"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::status::table::tests::{MINERS, row};

    #[test]
    fn a_miners_detail_shortens_nothing() {
        let cell = Cell {
            row: crate::admin::status::Row {
                declared: 12_345_678_901,
                due: Some(7),
                score: Some(0.573_248_4),
                ..row(MINERS[0], "org/a-model-with-a-long-name-1.5")
            },
            attempts: Attempts {
                good: 412,
                busy: 3,
                ..Attempts::default()
            },
            first_chunk_ms: Some(120.44),
            duration_ms: Some(1840.0),
            unit_ms: None,
        };
        let mut detail = Detail {
            miner: MINERS[0].to_owned(),
            uid: Some(3),
            number: 0,
            sequence: 1_764_080_000_000,
            valid_until_ms: 1_764_086_400_000,
            withdrawn: false,
            cells: vec![cell],
        };
        insta::assert_snapshot!(text(&detail), @r"
        miner 5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY, uid 3, number 0 in metrics
        declaration 1764080000000, valid until 2025-11-25T16:00:00Z

        org/a-model-with-a-long-name-1.5
          a period   declared 12345678901, allotment 166666, verified 500000
          this one   granted 20000, reserved 120, posted 3400: 3000 organic, 400 synthetic
          checks     due 7, score 0.573248
          now        free, 3 of 8 in flight, success 98.2%
          attempts   412 good, 3 busy, 0 refused, 0 cancelled, 0 lost, 0 stalled, 0 broke the protocol
          latency    first chunk 120.4 ms, whole 1840.0 ms (means of good ones); - a unit, lately
        ");
        detail.withdrawn = true;
        detail.cells.clear();
        insta::assert_snapshot!(text(&detail), @r"
        miner 5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY, uid 3, number 0 in metrics
        declaration 1764080000000, taken back

        nothing of it is offered or was booked in this period
        ");
    }
}
