//! What of windows and of what is asked in them is promised.

use super::*;

const HOUR: u32 = 3600;

fn length(secs: u32) -> PeriodLength {
    PeriodLength::from_secs(secs).unwrap()
}

fn settings(per_period: u32) -> BurstSettings {
    BurstSettings {
        per_period,
        ..BurstSettings::default()
    }
}

/// Windows of the period that starts at 0.
fn windows(per_period: u32, secs: u32, at: f64) -> Windows {
    let (settings, length) = (settings(per_period), length(secs));
    let period = Period::starting_at(0);
    let standing = settings.draw(length, period, || at);
    Windows::of(settings, length, period, standing)
}

#[test]
fn each_part_of_a_period_has_one_whole_window() {
    for (per_period, secs) in [(1, 10), (3, 10), (1, HOUR), (12, HOUR), (60, HOUR)] {
        for at in [0.0, 0.5, 1.0] {
            let begins_s = u64::from(secs) * 7;
            let drawn =
                settings(per_period).draw(length(secs), Period::starting_at(begins_s), || at);
            assert_eq!(drawn.len(), per_period as usize);
            let mut free_from_ms = begins_s * 1000;
            for (number, one) in (0..).zip(&drawn) {
                assert_eq!(one.number, number);
                let window = one.window;
                assert!(
                    window.common && window.begins_ms >= free_from_ms,
                    "{drawn:?}"
                );
                assert_eq!(window.length_ms, if secs == 10 { 500 } else { 10_000 });
                free_from_ms = window.ends_ms();
            }
            let last_ms = (begins_s + u64::from(secs)) * 1000 - u64::from(secs) * 20;
            assert!(free_from_ms <= last_ms, "{drawn:?}");
        }
    }
}

#[test]
fn nothing_is_drawn_where_no_bursts_are_planned() {
    let none = BurstSettings::NONE;
    assert_eq!(none.draw(length(10), Period::starting_at(0), || 0.5), []);
    let mut windows = Windows::of(none, length(10), Period::starting_at(0), Vec::new());
    assert_eq!(windows.newcomers([CellId(1)], 0, 0.5), None);
    assert_eq!(none.first_burst(Units::new(100), length(10)), Units::ZERO);
}

#[test]
fn a_window_begins_once_and_one_that_was_missed_not_at_all() {
    let mut here = windows(1, HOUR, 0.5);
    let window = here.ahead(0).next().unwrap();
    assert_eq!(here.begin(window.begins_ms - 1), None);
    assert_eq!(here.begin(window.begins_ms + 100), Some(window));
    assert_eq!(here.begin(window.begins_ms + 101), None);
    // The gateway started in the middle of it.
    let mut late = windows(1, HOUR, 0.5);
    assert_eq!(late.begin(window.begins_ms + 5_000), None);
    assert_eq!(late.begin(window.ends_ms()), None);
}

#[test]
fn a_newcomer_is_asked_within_a_sixth_of_the_period_and_others_with_it() {
    for (secs, wait_ms) in [(10, 1_666), (HOUR, 60_000)] {
        for draw in [0.0, 1.0] {
            // The common window is far.
            let mut windows = windows(1, secs, 1.0);
            let added = windows.newcomers([CellId(3)], 1_000, draw).unwrap();
            assert_eq!(added.number, NEWCOMERS);
            assert!(!added.window.common);
            assert!(added.window.begins_ms > 1_000);
            assert!(added.window.begins_ms <= 1_000 + wait_ms);
            let standing = [windows.standing.as_slice(), &[added]].concat();
            windows.stand(standing);
            // Others come; they share it, though their own time is not up.
            let before_ms = added.window.begins_ms - 1;
            let more = [CellId(3), CellId(4), CellId(5)];
            assert_eq!(windows.newcomers(more, before_ms, draw), None);
            assert!(windows.is_new(CellId(5)));
            assert_eq!(windows.begin(added.window.begins_ms), Some(added.window));
            // Who comes while it is open has one more.
            let next = windows.newcomers([CellId(6)], added.window.begins_ms + 1, draw);
            assert_eq!(next.map(|next| next.number), Some(NEWCOMERS + 1));
        }
    }
}

#[test]
fn a_newcomer_takes_part_in_a_common_window_that_comes_in_time() {
    let mut windows = windows(1, HOUR, 0.5);
    let common = windows.ahead(0).next().unwrap();
    assert_eq!(
        windows.newcomers([CellId(3)], common.begins_ms - 50_000, 0.5),
        None
    );
    assert!(!windows.kept_back(CellId(9), Units::new(3600), 0).is_zero());
}

#[test]
fn a_newcomer_at_the_end_of_a_period_is_asked_at_the_start_of_the_next() {
    let mut windows = windows(1, HOUR, 0.0);
    let late_ms = 3_600_000 - 8_000;
    assert_eq!(windows.newcomers([CellId(3)], late_ms, 0.5), None);
    let next = Period::starting_at(3600);
    let standing = settings(1).draw(length(HOUR), next, || 1.0);
    let mut windows = windows.turned(next, standing);
    let added = windows.newcomers([CellId(3)], 3_600_000, 0.0).unwrap();
    assert!(added.window.begins_ms <= late_ms + 60_000);
}

#[test]
fn what_a_window_asks_for_is_kept_back_until_it_begins() {
    let windows = windows(2, HOUR, 0.5);
    let begins: Vec<_> = windows.ahead(0).map(|window| window.begins_ms).collect();
    // One unit a second.
    let kept = |now_ms| windows.kept_back(CellId(1), Units::new(3600), now_ms).get();
    assert_eq!(kept(0), 24);
    assert_eq!(kept(begins[0]), 12);
    assert_eq!(kept(begins[1]), 0);
    let first = settings(1).first_burst(Units::new(3600), length(HOUR));
    assert_eq!(first, Units::new(12));
}

/// A window of ten seconds.
const WINDOW: Window = Window {
    begins_ms: 0,
    length_ms: 10_000,
    common: true,
};

/// Sixty units a second, much of them due.
fn asked() -> Asked {
    Asked {
        rate: 60.0,
        concurrency: Some(6),
        service_s: 0.0,
        in_flight: 0,
        shown: 0.0,
        due: Units::new(10_000),
        closed: false,
        check_units: Units::new(300),
    }
}

#[test]
fn a_window_fills_the_places_that_a_miner_states() {
    let sent = WINDOW.send(&asked(), Duration::ZERO);
    // 600 units over six places, and a quarter more each.
    assert_eq!((sent.checks, sent.units), (6, Units::new(125)));
    let two_taken = Asked {
        in_flight: 2,
        ..asked()
    };
    assert_eq!(WINDOW.send(&two_taken, Duration::ZERO).checks, 4);
    let full = Asked {
        in_flight: 6,
        ..asked()
    };
    assert_eq!(WINDOW.send(&full, Duration::ZERO).checks, 0);
    assert!(WINDOW.is_asked(&full, Duration::ZERO));
    assert!(!WINDOW.is_asked(&two_taken, Duration::ZERO));
}

#[test]
fn no_more_leaves_than_is_due_and_nothing_for_who_takes_nothing() {
    let little = Asked {
        due: Units::new(126),
        ..asked()
    };
    assert_eq!(WINDOW.send(&little, Duration::ZERO).checks, 2);
    let nothing = Asked {
        due: Units::ZERO,
        ..asked()
    };
    assert_eq!(WINDOW.send(&nothing, Duration::ZERO).checks, 0);
    assert!(!WINDOW.is_asked(&nothing, Duration::ZERO));
    let closed = Asked {
        closed: true,
        ..asked()
    };
    assert_eq!(WINDOW.send(&closed, Duration::ZERO).checks, 0);
    assert!(WINDOW.is_asked(&closed, Duration::ZERO));
}

#[test]
fn who_is_ahead_of_its_rate_is_asked_no_more_until_it_is_not() {
    let quick = Asked {
        shown: 121.0,
        ..asked()
    };
    assert_eq!(WINDOW.send(&quick, Duration::from_secs(2)).checks, 0);
    assert!(WINDOW.is_asked(&quick, Duration::from_secs(2)));
    assert_eq!(WINDOW.send(&quick, Duration::from_secs(3)).checks, 6);
}

#[test]
fn no_more_places_are_filled_than_the_rate_needs() {
    let known = Asked {
        concurrency: Some(100),
        service_s: 0.05,
        ..asked()
    };
    // Three at its rate, and half as many again.
    let sent = WINDOW.send(&known, Duration::ZERO);
    assert_eq!((sent.checks, sent.units), (5, Units::new(150)));
    let unstated = Asked {
        concurrency: None,
        ..asked()
    };
    assert_eq!(WINDOW.send(&unstated, Duration::ZERO).checks, 2);
}
