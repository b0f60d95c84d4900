//! The recent past of a few figures, in memory: the last 10 minutes by the second and the last hour
//! by 10 seconds.
//!
//! Memory is bounded and taken at once: [`MAX_SERIES`] series of [`FINE`] and [`COARSE`] points of
//! four bytes. A point is "not a number" while its second has no value, for example because the
//! process was suspended; it is `null` in JSON.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use serde::Serialize;

use super::super::Refusal;
use super::figures::FIGURES;

/// Maximum number of series.
pub(super) const MAX_SERIES: usize = 40;
/// Points of one second.
const FINE: usize = 600;
/// Points of [`COARSE_SECONDS`] seconds.
const COARSE: usize = 360;
const COARSE_SECONDS: u64 = 10;

const _: () = assert!(FIGURES.len() <= MAX_SERIES);

/// The points of all series at one distance. A tick is a number of steps since the server started.
/// The point of tick `t` stands at `t % length`; those after `newest - length` up to `newest` exist.
struct Ring {
    length: usize,
    newest: Option<u64>,
    /// Series after series.
    points: Vec<f32>,
}

impl Ring {
    fn new(length: usize) -> Ring {
        Ring { length, newest: None, points: vec![f32::NAN; length * FIGURES.len()] }
    }

    fn place(&self, series: usize, tick: u64) -> usize {
        series * self.length + (tick % self.length as u64) as usize
    }

    /// Adds the points of a tick. Ticks that were left out become gaps; an old tick is ignored.
    fn push(&mut self, tick: u64, values: &[f32]) {
        debug_assert_eq!(values.len(), FIGURES.len());
        if self.newest.is_some_and(|newest| tick <= newest) {
            return;
        }
        let first_gap = self.newest.map_or(tick, |newest| newest + 1).max(tick.saturating_sub(self.length as u64 - 1));
        for gap in first_gap..tick {
            for series in 0..FIGURES.len() {
                let place = self.place(series, gap);
                self.points[place] = f32::NAN;
            }
        }
        for (series, value) in values.iter().enumerate() {
            let place = self.place(series, tick);
            self.points[place] = *value;
        }
        self.newest = Some(tick);
    }

    /// The points of one series after the tick `after`, oldest first.
    fn since(&self, series: usize, after: Option<u64>) -> Vec<Option<f32>> {
        let Some(newest) = self.newest else { return Vec::new() };
        let oldest = (newest + 1).saturating_sub(self.length as u64);
        let first = after.map_or(oldest, |after| oldest.max(after.saturating_add(1)));
        (first..=newest).map(|tick| Some(self.points[self.place(series, tick)]).filter(|v| v.is_finite())).collect()
    }
}

/// Sums up the points of the coarse tick under way.
struct Mean {
    tick: u64,
    sums: Vec<f32>,
    counts: Vec<u32>,
}

impl Mean {
    fn of(tick: u64) -> Mean {
        Mean { tick, sums: vec![0.0; FIGURES.len()], counts: vec![0; FIGURES.len()] }
    }

    fn add(&mut self, values: &[f32]) {
        for ((sum, count), value) in self.sums.iter_mut().zip(&mut self.counts).zip(values) {
            if value.is_finite() {
                *sum += value;
                *count += 1;
            }
        }
    }

    fn values(&self) -> Vec<f32> {
        let mean = |(sum, count): (&f32, &u32)| if *count == 0 { f32::NAN } else { sum / *count as f32 };
        self.sums.iter().zip(&self.counts).map(mean).collect()
    }
}

struct Series {
    fine: Ring,
    coarse: Ring,
    under_way: Mean,
}

impl Series {
    fn push(&mut self, second: u64, values: &[f32]) {
        self.fine.push(second, values);
        let tick = second / COARSE_SECONDS;
        if tick > self.under_way.tick {
            let done = std::mem::replace(&mut self.under_way, Mean::of(tick));
            self.coarse.push(done.tick, &done.values());
        }
        self.under_way.add(values);
    }
}

/// The series of a server.
pub struct SharedSeries(Mutex<Series>);

impl Default for SharedSeries {
    fn default() -> Self {
        SharedSeries(Mutex::new(Series { fine: Ring::new(FINE), coarse: Ring::new(COARSE), under_way: Mean::of(0) }))
    }
}

impl SharedSeries {
    /// Adds the values of one second since the start.
    pub(super) fn push(&self, second: u64, values: &[f32]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(second, values);
    }

    /// The points that were asked for.
    pub(super) fn page(&self, wanted: &Wanted) -> Page {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = if wanted.step == COARSE_SECONDS { &all.coarse } else { &all.fine };
        let is_wanted = |name: &str| wanted.names.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        let series = FIGURES.iter().enumerate().filter(|(_, figure)| is_wanted(figure.name));
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Page {
            step_seconds: wanted.step,
            length: ring.length,
            newest: ring.newest,
            now_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            series: series
                .map(|(at, figure)| Points {
                    name: figure.name,
                    label: figure.label,
                    unit: figure.unit,
                    points: ring.since(at, wanted.after),
                })
                .collect(),
        }
    }
}

/// An answer to a request for series.
#[derive(Serialize)]
pub struct Page {
    step_seconds: u64,
    /// Maximum number of points of a series.
    length: usize,
    /// The tick of the last point of each series, to be given as `after` next time; `null` while
    /// there is none.
    newest: Option<u64>,
    now_ms: u64,
    series: Vec<Points>,
}

#[derive(Serialize)]
struct Points {
    name: &'static str,
    label: &'static str,
    unit: &'static str,
    /// Oldest first.
    points: Vec<Option<f32>>,
}

/// The parameters of a request for series, checked.
#[derive(Debug, PartialEq)]
pub(super) struct Wanted {
    step: u64,
    after: Option<u64>,
    names: Option<Vec<String>>,
}

impl Wanted {
    /// Parses `step` (1 or 10), `after` (a tick) and `names` (a list with commas; absent: all).
    pub fn parse(mut parameters: HashMap<String, String>) -> Result<Wanted, Refusal> {
        let bad = |reason: String| Refusal(StatusCode::BAD_REQUEST, reason);
        let step = match parameters.remove("step").as_deref() {
            None | Some("1") => 1,
            Some("10") => COARSE_SECONDS,
            Some(other) => return Err(bad(format!("step = `{other}`: expected 1 or 10 (seconds)"))),
        };
        let after = match parameters.remove("after") {
            None => None,
            Some(text) => {
                let wanted = || bad(format!("after = `{text}`: expected `newest` of an earlier answer"));
                Some(text.parse().map_err(|_| wanted())?)
            }
        };
        let names =
            parameters.remove("names").map(|names| names.split(',').map(str::to_string).collect::<Vec<String>>());
        let unknown = |name: &&String| !FIGURES.iter().any(|figure| figure.name == **name);
        if let Some(name) = names.iter().flatten().find(unknown) {
            let known: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
            return Err(bad(format!("names: there is no series `{name}`; there are {}", known.join(", "))));
        }
        match parameters.keys().next() {
            Some(name) => Err(bad(format!("unknown parameter `{name}`; allowed: step, after and names"))),
            None => Ok(Wanted { step, after, names }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(value: f32) -> Vec<f32> {
        vec![value; FIGURES.len()]
    }

    fn wanted(step: u64, after: Option<u64>) -> Wanted {
        Wanted { step, after, names: Some(vec![FIGURES[0].name.to_string()]) }
    }

    fn points(series: &SharedSeries, step: u64, after: Option<u64>) -> Vec<Option<f32>> {
        let page = series.page(&wanted(step, after));
        assert_eq!(page.series.len(), 1, "only what was asked for");
        page.series.into_iter().next().expect("one").points
    }

    #[test]
    fn the_newest_points_are_kept_and_memory_does_not_grow() {
        let series = SharedSeries::default();
        let size = |series: &SharedSeries| {
            let all = series.0.lock().expect("sound");
            (all.fine.points.capacity(), all.coarse.points.capacity(), all.under_way.sums.capacity())
        };
        let before = size(&series);
        for second in 0..10_000 {
            series.push(second, &values(second as f32));
        }
        assert_eq!(size(&series), before);
        assert!((before.0 + before.1) * size_of::<f32>() <= MAX_SERIES * (FINE + COARSE) * 4);
        let fine = points(&series, 1, None);
        let expected: Vec<Option<f32>> = (9_400..10_000).map(|second| Some(second as f32)).collect();
        assert_eq!(fine, expected);
        let coarse = points(&series, 10, None);
        assert_eq!((coarse.len(), coarse.last()), (COARSE, Some(&Some(9_984.5))), "means of ten seconds");
    }

    #[test]
    fn only_what_is_newer_is_sent_again() {
        let series = SharedSeries::default();
        assert_eq!(points(&series, 1, None), []);
        for second in 0..5 {
            series.push(second, &values(second as f32));
        }
        assert_eq!(points(&series, 1, Some(2)), [Some(3.0), Some(4.0)]);
        assert_eq!(points(&series, 1, Some(4)), []);
        assert_eq!(points(&series, 1, Some(u64::MAX)), []);
        assert_eq!(series.page(&wanted(1, None)).newest, Some(4));
    }

    #[test]
    fn a_second_that_was_left_out_is_a_gap_and_an_old_one_changes_nothing() {
        let series = SharedSeries::default();
        series.push(1, &values(1.0));
        series.push(4, &values(4.0));
        series.push(2, &values(9.0));
        assert_eq!(points(&series, 1, Some(0)), [Some(1.0), None, None, Some(4.0)]);
        // Longer than the ring: nothing of the past may come back.
        series.push(100_000, &values(5.0));
        let after = points(&series, 1, None);
        assert_eq!((after.len(), after.iter().flatten().count()), (FINE, 1));
        series.push(100_001, &values(f32::NAN));
        assert_eq!(points(&series, 1, Some(100_000)), [None]);
    }

    #[test]
    fn bad_parameters_are_named() {
        let refused = |name: &str, value: &str| {
            let parameters = HashMap::from([(name.to_string(), value.to_string())]);
            Wanted::parse(parameters).expect_err("refused").1
        };
        assert!(refused("step", "2").contains("1 or 10"));
        assert!(refused("after", "-1").contains("after = `-1`"));
        assert!(refused("names", "nothing").contains(FIGURES[0].name));
        assert!(refused("colour", "red").contains("step, after and names"));
    }
}
