//! The one table, a line as soon as it is known.

use crate::{Wanted, load::Measured};

pub(crate) struct Table;

/// What a figure is held against.
pub(crate) enum Beside<'a> {
    /// What others do: so many times as fast. With what it should be at least.
    Times(&'a str, f64, Option<f64>),
    /// What the machine allows: so much of it. With what it should be at least.
    Of(&'a str, f64, Option<f64>),
    /// A rate that is aimed at.
    Target(f64),
}

impl Table {
    pub(crate) fn begin(wanted: Wanted) -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!(
            "{} s a figure, {} cores ({}); the machine's load before: {}",
            wanted.seconds,
            std::thread::available_parallelism().map_or(0, usize::from),
            processor().as_deref().unwrap_or("unknown"),
            load.split_whitespace().next().unwrap_or("unknown")
        );
        println!("app, db: CPU microseconds that one piece costs this process (clients included) and Postgres");
        println!(
            "pace: nanoseconds of a fixed piece of arithmetic, just afterwards: where it is twice as long, so is all else\n"
        );
        println!(
            "{:<44} {:>9} {:>8} {:>8} {:>7} {:>7} {:>5}   {:<28} {:>9}  ratio",
            "", "a second", "p50 ms", "p99 ms", "app", "db", "pace", "beside", "a second"
        );
        Self
    }

    /// A measured figure and what it is held against.
    pub(crate) fn line(&self, what: &str, m: &Measured, beside: &[Beside<'_>]) {
        let (rate, p50, p99) = (thousands(m.rate()), m.percentile(50.0), m.percentile(99.0));
        let (app, db, pace) = (m.app(), m.db(), m.pace());
        let figures = format!("{what:<44} {rate:>9} {p50:>8.2} {p99:>8.2} {app:>7.1} {db:>7.1} {pace:>5.1}");
        self.compared(&figures, m.rate(), beside);
    }

    /// A figure that is no rate.
    pub(crate) fn figure(&self, what: &str, is: &str, aim: &str) {
        println!("{what:<44} {is:>9}{:43}{aim}", "");
    }

    fn compared(&self, figures: &str, rate: f64, beside: &[Beside<'_>]) {
        let mut left = figures.to_owned();
        for one in beside {
            println!("{left:<94}   {}", one.told(rate));
            left.clear();
        }
        if beside.is_empty() {
            println!("{left}");
        }
    }
}

impl Beside<'_> {
    fn told(&self, rate: f64) -> String {
        let aim = |is: f64, least: Option<f64>, unit: &str| {
            least.map_or(String::new(), |least| format!(" ({} ≥ {least}{unit})", verdict(is >= least)))
        };
        let (name, other, ratio) = match self {
            Self::Times(name, other, least) => {
                let is = rate / other;
                (*name, *other, format!("{is:.1} ×{}", aim(is, *least, " ×")))
            }
            Self::Of(name, other, least) => {
                let is = rate / other * 100.0;
                (*name, *other, format!("{is:.0} %{}", aim(is, *least, " %")))
            }
            Self::Target(least) => ("target", *least, verdict(rate >= *least).to_owned()),
        };
        format!("{name:<28} {:>9}  {ratio}", thousands(other))
    }
}

/// Of a target, for who reads only this.
pub(crate) fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

/// `151450.3` as `151 450`.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap_or("")).collect();
    groups.join(" ")
}

/// What the machine says that it is.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
