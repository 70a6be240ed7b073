//! Closed loops of clients, and what a piece of work cost.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{Outcome, house::House};

/// What came of a load.
#[derive(Debug)]
pub(crate) struct Measured {
    latency: Histogram<u64>,
    took: Duration,
    cpu: Cpu,
    /// Of how many slices, and what [`pace`] said after each, together.
    slices: f64,
    paces: f64,
}

impl Measured {
    /// How long each piece took, in microseconds; what all of them took together, and cost.
    pub(crate) fn new(latency: Histogram<u64>, took: Duration, cpu: Cpu) -> Self {
        Self { latency, took, cpu, slices: 1.0, paces: pace() }
    }

    /// Another slice of the same load.
    pub(crate) fn add(&mut self, later: &Self) {
        self.latency.add(&later.latency).expect("same bounds");
        self.took += later.took;
        self.cpu = Cpu { app: self.cpu.app + later.cpu.app, db: self.cpu.db + later.cpu.db };
        self.slices += later.slices;
        self.paces += later.paces;
    }

    /// How long it was measured.
    pub(crate) fn took(&self) -> Duration {
        self.took
    }

    /// How many.
    pub(crate) fn pieces(&self) -> u64 {
        self.latency.len()
    }

    /// Pieces a second.
    pub(crate) fn rate(&self) -> f64 {
        self.pieces() as f64 / self.took.as_secs_f64()
    }

    /// Milliseconds that so many of a hundred took at most.
    pub(crate) fn percentile(&self, percentile: f64) -> f64 {
        self.latency.value_at_quantile(percentile / 100.0) as f64 / 1_000.0
    }

    /// CPU microseconds a piece: of this process.
    pub(crate) fn app(&self) -> f64 {
        self.cpu.app / self.latency.len().max(1) as f64
    }

    /// The same, of Postgres.
    pub(crate) fn db(&self) -> f64 {
        self.cpu.db / self.latency.len().max(1) as f64
    }

    /// How fast the machine was: see [`pace`].
    pub(crate) fn pace(&self) -> f64 {
        self.paces / self.slices
    }
}

/// Slices that figures which are held against each other are measured in, by turns.
const TURNS: u32 = 4;

/// How long a slice is, where a figure takes so long.
pub(crate) fn slice(time: Duration) -> Duration {
    time / TURNS
}

/// Measures by turns: whatever a neighbour does to the machine, it does to all of them. `turn` measures a slice of each.
pub(crate) async fn by_turns<const N: usize>(
    mut turn: impl AsyncFnMut() -> Outcome<[Measured; N]>,
) -> Outcome<[Measured; N]> {
    let mut all = turn().await?;
    for _ in 1..TURNS {
        all.iter_mut().zip(turn().await?).for_each(|(one, later)| one.add(&later));
    }
    Ok(all)
}

/// Nanoseconds that a fixed piece of arithmetic takes here and now. Two virtual cores may be threads of one real core, and
/// its other threads a stranger's: no figure says so, but this one.
fn pace() -> f64 {
    const ROUNDS: u64 = 4_000_000;
    let began = Instant::now();
    let mixed = (0..ROUNDS).fold(0x9e37_79b9_u64, |mixed, round| {
        std::hint::black_box((mixed ^ round).wrapping_mul(0x2545_f491_4f6c_dd1d))
    });
    std::hint::black_box(mixed);
    began.elapsed().as_nanos() as f64 / ROUNDS as f64
}

/// A closed loop of so many clients, each a task; every request must succeed.
pub(crate) async fn closed<F>(
    house: &House,
    clients: usize,
    time: Duration,
    request: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Measured
where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = Arc::clone(&stop);
    let timer = tokio::spawn(async move {
        tokio::time::sleep(time).await;
        stopper.store(true, Ordering::Relaxed);
    });
    let measured = until(house, clients, move |_| !stop.load(Ordering::Relaxed), request).await;
    timer.abort();
    measured
}

/// The same for a number of pieces, numbered from 0.
pub(crate) async fn count<F>(
    house: &House,
    clients: usize,
    pieces: u64,
    request: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Measured
where
    F: Future<Output = ()> + Send + 'static,
{
    until(house, clients, move |number| number < pieces, request).await
}

async fn until<F>(
    house: &House,
    clients: usize,
    goes_on: impl Fn(u64) -> bool + Clone + Send + 'static,
    request: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Measured
where
    F: Future<Output = ()> + Send + 'static,
{
    let next = Arc::new(AtomicU64::new(0));
    let (began, cpu) = (Instant::now(), Cpu::now(house));
    let client = || {
        let (next, goes_on, request) = (Arc::clone(&next), goes_on.clone(), request.clone());
        tokio::spawn(async move {
            let mut latency = histogram();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if !goes_on(number) {
                    return latency;
                }
                let sent = Instant::now();
                request(number).await;
                latency.saturating_record(sent.elapsed().as_micros() as u64);
            }
        })
    };
    let clients: Vec<_> = (0..clients).map(|_| client()).collect();
    let mut all = histogram();
    for client in clients {
        all.add(client.await.expect("every request succeeds")).expect("same bounds");
    }
    Measured::new(all, began.elapsed(), cpu.until(&Cpu::now(house)))
}

/// To one per cent: every client has one, and a thousand finer ones would be 200 MB that the system must clear first.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 2).expect("valid bounds")
}

/// CPU time, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    app: f64,
    db: f64,
}

impl Cpu {
    /// So far: this process, and every process of the house's Postgres, those that have ended included.
    pub(crate) fn now(house: &House) -> Self {
        let postmaster = house.postmaster();
        let children = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let theirs = children.filter_map(|path| Stat::of(&path)).filter(|stat| stat.parent == postmaster);
        let own = Stat::of(Path::new(&format!("/proc/{postmaster}")));
        let app = Stat::of(Path::new("/proc/self")).map_or(0.0, |stat| stat.own);
        Self { app, db: own.map_or(0.0, |stat| stat.own + stat.ended) + theirs.map(|stat| stat.own).sum::<f64>() }
    }

    pub(crate) fn until(&self, later: &Self) -> Self {
        Self { app: later.app - self.app, db: later.db - self.db }
    }
}

/// What `/proc/<pid>/stat` says (proc(5)): microseconds of a process, and of its children that have ended.
struct Stat {
    parent: u32,
    own: f64,
    ended: f64,
}

impl Stat {
    fn of(process: &Path) -> Option<Self> {
        let text = fs::read_to_string(process.join("stat")).ok()?;
        // the name, in parentheses, may hold anything
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
        let micros = 10_000.0; // a tick is 10 ms on every Linux
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: (ticks(11)? + ticks(12)?) * micros,
            ended: (ticks(13)? + ticks(14)?) * micros,
        })
    }
}

/// Resident memory of this process, in bytes.
pub(crate) fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0) * 4_096.0
}
