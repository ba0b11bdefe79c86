//! Miners and tasks as tables of at most a hundred columns: one a task, because units of
//! different tasks are no sum. Hotkeys and large numbers are shortened; JSON has them whole.

use comfy_table::{CellAlignment, Table};

use crate::admin::status::{Overview, Row, Task};

use super::sort::Sort;

/// Numbers from here on are shortened.
const SHORTEN_FROM: u64 = 1_000_000;

/// What stands where nothing is known.
pub(super) const UNKNOWN: &str = "-";

const HEADINGS: [&str; 13] = [
    "miner",
    "de-\nclared",
    "allot-\nment",
    "re-\nserved",
    "posted",
    "veri-\nfied",
    "organic",
    "syn-\nthetic",
    "due",
    "score",
    "state",
    "in\nflight",
    "success",
];

/// The columns that are words.
const WORDS: [usize; 2] = [0, 10];

/// Everything that was told.
pub(super) fn text(overview: &Overview, sort: Option<Sort>) -> String {
    let mut text = heading(overview);
    let mut tasks: Vec<&Task> = overview.tasks.iter().collect();
    // Declared ones that do not exist here stand behind those that do.
    let mut unknown: Vec<&str> = Vec::new();
    for row in &overview.cells {
        let known = tasks.iter().any(|task| task.task == row.task);
        if !known && !unknown.contains(&row.task.as_str()) {
            unknown.push(&row.task);
        }
    }
    if sort.is_some_and(Sort::turns_tasks) {
        tasks.reverse();
    }
    let rows = |id: &str| {
        let of_task = overview.cells.iter().filter(|row| row.task == id);
        let mut rows: Vec<&Row> = of_task.collect();
        if let Some(sort) = sort {
            rows.sort_by(|one, other| sort.compare(one, other));
        }
        rows
    };
    for task in tasks {
        text.push_str(&format!("\n\n{}", about(task)));
        text.push_str(&of_task(&rows(&task.task)));
    }
    for id in unknown {
        text.push_str(&format!("\n\n{id}: no such task here"));
        text.push_str(&of_task(&rows(id)));
    }
    if overview.tasks.is_empty() && overview.cells.is_empty() {
        text.push_str("\n\nno task yet: no miner has declared one");
    }
    text
}

fn heading(overview: &Overview) -> String {
    let rest_s = overview.period_rest_ms / 1000;
    let length_s = overview.period_length_s;
    let mut text = format!(
        "validator {}\nnetwork {}, share {}\nperiod {}, {rest_s} of {length_s} s left; {}",
        overview.validator,
        overview.network,
        overview.share,
        moment(overview.period_start_s),
        if overview.ready { "ready" } else { "not ready" },
    );
    if !overview.store_answers {
        text.push_str("; the store does not answer");
    }
    text
}

fn about(task: &Task) -> String {
    // As JSON has it.
    let kind = serde_json::to_value(task.kind).unwrap_or_default();
    let kind = kind.as_str().unwrap_or_default();
    let mut text = format!("{} ({kind}), weight {}", task.task, task.weight);
    if let Some(ceiling) = task.ceiling {
        text.push_str(&format!(
            "; of its ceiling of {}: {} posted, {} reserved",
            ceiling.units, ceiling.posted, ceiling.reserved
        ));
    }
    text
}

/// The table of a task, behind a line break.
fn of_task(rows: &[&Row]) -> String {
    if rows.is_empty() {
        return "\nno miner".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(HEADINGS);
    for row in rows {
        table.add_row(cells(row));
    }
    if rows.len() > 1 {
        table.add_row(sums(rows));
    }
    let last = HEADINGS.len().saturating_sub(1);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, u16::from(at < last)));
        if !WORDS.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push('\n');
        text.push_str(line.trim_end());
    }
    text
}

fn cells(row: &Row) -> [String; 13] {
    // There is no room for more, and no need: it is as good as not bounded.
    let most = row.concurrency.filter(|most| *most <= 9999);
    let in_flight = match most {
        Some(most) => format!("{}/{most}", row.in_flight),
        None => row.in_flight.to_string(),
    };
    [
        short(&row.miner),
        brief(row.declared),
        brief(row.allotment),
        brief(row.reserved),
        brief(row.posted),
        brief(row.verified),
        brief(row.organic),
        brief(row.synthetic),
        row.due.map_or_else(|| UNKNOWN.to_owned(), brief),
        row.score
            .map_or_else(|| UNKNOWN.to_owned(), |score| format!("{score:.4}")),
        row.state.as_str().to_owned(),
        in_flight,
        row.success.map_or_else(|| UNKNOWN.to_owned(), percent),
    ]
}

/// The sums of what adds up.
fn sums(rows: &[&Row]) -> [String; 13] {
    let sum = |part: fn(&Row) -> u64| {
        let parts = rows.iter().map(|row| part(row));
        brief(parts.fold(0, u64::saturating_add))
    };
    let due: Vec<u64> = rows.iter().filter_map(|row| row.due).collect();
    let known = !due.is_empty();
    let due = brief(due.into_iter().fold(0, u64::saturating_add));
    [
        format!("all {}", rows.len()),
        sum(|row| row.declared),
        sum(|row| row.allotment),
        sum(|row| row.reserved),
        sum(|row| row.posted),
        sum(|row| row.verified),
        sum(|row| row.organic),
        sum(|row| row.synthetic),
        if known { due } else { UNKNOWN.to_owned() },
        String::new(),
        String::new(),
        sum(|row| u64::from(row.in_flight)),
        String::new(),
    ]
}

/// A hotkey's first and last four characters.
pub(super) fn short(hotkey: &str) -> String {
    let letters: Vec<char> = hotkey.chars().collect();
    match letters.len().checked_sub(4) {
        Some(tail) if tail > 5 => {
            let ends = |part: &[char]| part.iter().collect::<String>();
            format!("{}…{}", ends(&letters[..4]), ends(&letters[tail..]))
        }
        _ => hotkey.to_owned(),
    }
}

/// A number in at most six characters, rounded down.
fn brief(number: u64) -> String {
    const SIGNS: [char; 5] = ['M', 'G', 'T', 'P', 'E'];
    if number < SHORTEN_FROM {
        return number.to_string();
    }
    let mut thousandths = number / (SHORTEN_FROM / 1000);
    let mut sign = SIGNS[0];
    for next in &SIGNS[1..] {
        if thousandths < 1_000_000 {
            break;
        }
        thousandths /= 1000;
        sign = *next;
    }
    let (whole, part) = (thousandths / 1000, thousandths % 1000);
    match whole {
        0..10 => format!("{whole}.{part:03}{sign}"),
        10..100 => format!("{whole}.{:02}{sign}", part / 10),
        _ => format!("{whole}.{}{sign}", part / 100),
    }
}

/// A part of one.
pub(super) fn percent(part: f64) -> String {
    format!("{:.1}%", part * 100.0)
}

/// A moment as RFC 3339 writes it, to the second.
pub(super) fn moment(unix_s: u64) -> String {
    let seconds = i64::try_from(unix_s).unwrap_or(i64::MAX);
    prost_types::Timestamp { seconds, nanos: 0 }.to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin::status::{Ceiling, State};
    use crate::task::TaskKind;

    /// The public keys of development.
    pub(in crate::operator::status) const MINERS: [&str; 3] = [
        "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
        "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty",
        "5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y",
    ];

    pub(in crate::operator::status) fn row(miner: &str, task: &str) -> Row {
        Row {
            miner: miner.to_owned(),
            uid: None,
            task: task.to_owned(),
            declared: 500_000,
            allotment: 166_666,
            granted: 20_000,
            reserved: 120,
            posted: 3_400,
            verified: 500_000,
            organic: 3_000,
            synthetic: 400,
            due: None,
            score: None,
            state: State::Free,
            in_flight: 3,
            concurrency: Some(8),
            success: Some(0.982),
        }
    }

    pub(in crate::operator::status) fn overview(cells: Vec<Row>) -> Overview {
        let task = |id: &str, kind, weight, ceiling| Task {
            task: id.to_owned(),
            kind,
            weight,
            ceiling,
        };
        let ceiling = Some(Ceiling {
            units: 1_000_000,
            reserved: 120,
            posted: 3_000,
        });
        Overview {
            validator: "5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy".to_owned(),
            network: "finney".to_owned(),
            share: "1/3".to_owned(),
            ready: true,
            store_answers: true,
            now_ms: 1_764_080_000_000,
            period_start_s: 1_764_079_200,
            period_length_s: 3_600,
            period_rest_ms: 2_800_000,
            tasks: vec![
                task("sdxl", TaskKind::TextToImage, 0.4, None),
                task("tiny", TaskKind::Chat, 0.6, ceiling),
            ],
            cells,
        }
    }

    fn network() -> Overview {
        let largest = Row {
            declared: u64::MAX,
            allotment: 12_345_678_901,
            reserved: 999_999,
            posted: 123_456_789,
            verified: 1_000_000,
            organic: 123_456_789,
            synthetic: 0,
            due: Some(1_234_567),
            score: Some(1.0),
            state: State::Withdrawn,
            in_flight: 1024,
            concurrency: Some(1024),
            success: Some(1.0),
            ..row(MINERS[1], "tiny")
        };
        let newcomer = Row {
            success: None,
            concurrency: None,
            in_flight: 0,
            state: State::Ejected,
            ..row(MINERS[2], "tiny")
        };
        let unknown = Row {
            state: State::UnknownTask,
            ..row(MINERS[2], "gone")
        };
        overview(vec![row(MINERS[0], "tiny"), largest, newcomer, unknown])
    }

    #[test]
    fn the_table_is_at_most_a_hundred_columns_wide() {
        let text = text(&network(), None);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(
            widest.is_some_and(|widest| widest <= 100),
            "{widest:?}\n{text}"
        );
        insta::assert_snapshot!(text, @r"
        validator 5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy
        network finney, share 1/3
        period 2025-11-25T14:00:00Z, 2800 of 3600 s left; ready

        sdxl (text_to_image), weight 0.4
        no miner

        tiny (chat), weight 0.6; of its ceiling of 1000000: 3000 posted, 120 reserved
        miner        de- allot-    re- posted  veri- organic   syn-    due  score state          in success
                  clared   ment served          fied         thetic                          flight
        5Grw…utQY 500000 166666    120   3400 500000    3000    400      -      - free          3/8   98.2%
        5FHn…94ty 18.44E 12.34G 999999 123.4M 1.000M  123.4M      0 1.234M 1.0000 gone    1024/1024  100.0%
        5FLS…S59Y 500000 166666    120   3400 500000    3000    400      -      - ejected         0       -
        all 3     18.44E 12.34G 1.000M 123.4M 2.000M  123.4M    800 1.234M                     1027

        gone: no such task here
        miner        de- allot-    re- posted  veri- organic   syn- due score state       in success
                  clared   ment served          fied         thetic                   flight
        5FLS…S59Y 500000 166666    120   3400 500000    3000    400   -     - no task    3/8   98.2%
        ");
    }

    #[test]
    fn what_is_sorted_either_way_ends_with_what_is_not_known() {
        let sorted = |by: &str| {
            let text = text(&network(), Some(by.parse().unwrap()));
            let tiny = text.split("tiny (chat)").nth(1).unwrap().to_owned();
            let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
            tiny.lines()
                .skip(3)
                .take(3)
                .filter_map(first)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(sorted("success"), "5Grw…utQY 5FHn…94ty 5FLS…S59Y");
        assert_eq!(sorted("-success"), "5FHn…94ty 5Grw…utQY 5FLS…S59Y");
        assert_eq!(sorted("posted"), "5Grw…utQY 5FLS…S59Y 5FHn…94ty");
        assert_eq!(sorted("-posted"), "5FHn…94ty 5Grw…utQY 5FLS…S59Y");
        assert_eq!(sorted("miner"), "5FHn…94ty 5FLS…S59Y 5Grw…utQY");
        let tasks = |by: &str| text(&network(), Some(by.parse().unwrap())).find("tiny (chat)");
        assert!(tasks("task") > tasks("-task"));
        let wrong = "postd".parse::<Sort>().unwrap_err().to_string();
        assert!(
            wrong.contains("postd") && wrong.contains("in-flight"),
            "{wrong}"
        );
    }

    #[test]
    fn a_gateway_without_miners_says_so() {
        let mut told = overview(Vec::new());
        told.ready = false;
        told.store_answers = false;
        insta::assert_snapshot!(text(&told, None), @r"
        validator 5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy
        network finney, share 1/3
        period 2025-11-25T14:00:00Z, 2800 of 3600 s left; not ready; the store does not answer

        sdxl (text_to_image), weight 0.4
        no miner

        tiny (chat), weight 0.6; of its ceiling of 1000000: 3000 posted, 120 reserved
        no miner
        ");
    }

    #[test]
    fn numbers_have_at_most_six_characters_and_are_rounded_down() {
        let told = [
            999_999,
            1_000_000,
            9_999_999,
            99_999_999,
            999_999_999,
            1_000_000_000,
        ]
        .map(brief)
        .join(" ");
        assert_eq!(told, "999999 1.000M 9.999M 99.99M 999.9M 1.000G");
        assert_eq!(brief(u64::MAX), "18.44E");
    }
}
