//! The import actor: one a file of stock corrections, and the one that sees it through.
//!
//! It takes a few lines at a time: promises for those that take stock away, one entry, the next few. Which lines are left
//! stands in Postgres, so a crash costs nothing but the lines in hand, and those are taken up again. What adds or sets stock
//! needs no SKU's actor: the statement proves the condition, and whoever is awake learns the new counters. Actors that were
//! woken only to promise are put to rest again. Buyers come first: where others are writing too, it waits between two
//! entries as long as the last one took.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::future::join_all;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};

use crate::{
    context::Context,
    directory::{Cell, Directory, Envelope, Kind},
    domain::{
        Correction, ImportId, ImportLine, LineProblem, Refusal, SkuId, Who,
        change::{Changes, Chunk, Turn},
    },
    journal::Verdict,
    shelf::Hold,
    sku::{HoldError, Skus},
    store::{entry::Entry, load},
};

/// Lines of one entry: what a buyer who comes at the wrong moment waits for.
const LINES: usize = 250;
/// The longest pause between two entries.
const PAUSE: Duration = Duration::from_millis(50);
/// Times that a SKU's actor may give no answer before its lines fail.
const PATIENCE: u32 = 20;

/// What the engine holds of all import actors.
#[derive(Clone)]
pub(crate) struct Imports(pub Arc<Directory<Importing>>);

impl Imports {
    /// There is something to do. One that is at it comes to it by itself; one that rests after a crash is told again.
    pub(crate) async fn tell(&self, import_id: ImportId) {
        if self.0.find(import_id).is_none_or(|cell| cell.depth() == 0) {
            self.0.send(import_id, Work).await.ok();
        }
    }
}

/// How import actors are started.
pub(crate) struct Importing {
    pub context: Arc<Context>,
    pub skus: Skus,
}

/// Apply some lines.
pub(crate) struct Work;

#[async_trait]
impl Kind for Importing {
    const NAME: &'static str = "imports";
    const ONE: &'static str = "import";
    const MAILBOX: usize = 8;
    const ESCALATES: bool = false;
    type Key = ImportId;
    type Msg = Work;
    type Shared = ();

    fn shared(&self, _: ImportId) {}

    async fn start(&self, cell: &Arc<Cell<Self>>, supervisor: ActorCell) -> Result<ActorRef<Envelope<Self>>, Refusal> {
        let importer = Importer { cell: Arc::clone(cell), context: Arc::clone(&self.context), skus: self.skus.clone() };
        let spawned = Actor::spawn_linked(None, importer, (), supervisor).await;
        spawned.map(|(actor, _)| actor).map_err(|_| Refusal::Away("the engine is stopping"))
    }

    fn may_rest(&self, (): &()) -> bool {
        true
    }
}

struct Importer {
    cell: Arc<Cell<Importing>>,
    context: Arc<Context>,
    skus: Skus,
}

/// How far it has come.
struct Progress {
    /// The last line of this round.
    after: i32,
    /// Lines of the next entry: fewer where Postgres refuses one and it must be found.
    lines: usize,
    /// Lines that no promise could be had for, and how often.
    put_off: HashMap<i32, u32>,
    /// SKUs whose actors were woken for the last entry: its promises have settled by the next one.
    woken: HashSet<SkuId>,
}

impl Actor for Importer {
    type Msg = Envelope<Importing>;
    type State = Progress;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Progress, ActorProcessingErr> {
        Ok(Progress { after: 0, lines: LINES, put_off: HashMap::new(), woken: HashSet::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        progress: &mut Progress,
    ) -> Result<(), ActorProcessingErr> {
        let (Work, _ticket) = envelope.open();
        match self.work(progress).await {
            // a message a step: an engine that stops waits for one entry, not for a file
            Ok(true) => self.cell.nudge(&myself, Work),
            Ok(false) => {}
            Err(refusal) => tracing::debug!(import.id = %self.cell.key, %refusal, "an import waits"),
        }
        Ok(())
    }
}

impl Importer {
    /// Applies the next lines. False at the end of a round: where lines were put off, the reconciler begins the next one.
    async fn work(&self, progress: &mut Progress) -> Result<bool, Refusal> {
        let pending = load::imports::pending(&self.context.pool, self.cell.key, progress.after, progress.lines).await;
        let mut lines = pending.map_err(|error| crate::error::refusal(&error))?;
        progress.woken.drain().for_each(|sku_id| self.skus.0.rest(sku_id));
        if lines.is_empty() {
            progress.after = 0;
            return Ok(false);
        }
        lines.truncate(independent(&lines));
        let last = lines.last().map_or(0, |line| line.line);
        let began = Instant::now();
        let before = self.context.journal.report().entries;
        progress.woken = self.asleep(&lines);
        join_all(progress.woken.iter().map(|sku_id| self.skus.0.wake(*sku_id))).await;
        let (turns, holds) = self.promises(lines, progress).await;
        match self.commit(turns, holds).await? {
            Settled::Whole => (progress.after, progress.lines) = (last, LINES),
            Settled::Refused if progress.lines > 1 => progress.lines = progress.lines.div_ceil(2),
            // alone, and still refused: commit has written that down
            Settled::Refused => progress.after = last,
        }
        if self.context.journal.report().entries > before + 1 {
            tokio::time::sleep(began.elapsed().min(PAUSE)).await;
        }
        Ok(true)
    }

    /// SKUs that nobody has spoken to, and that will be spoken to.
    fn asleep(&self, lines: &[ImportLine]) -> HashSet<SkuId> {
        let takers = lines.iter().filter(|line| line.correction.delta() < 0);
        takers.map(|line| line.sku_id).filter(|sku_id| self.skus.0.find(*sku_id).is_none()).collect()
    }

    /// A turn for every line that can have one now, and a promise for every one that takes stock away.
    async fn promises(&self, lines: Vec<ImportLine>, progress: &mut Progress) -> (Vec<Turn>, Vec<Hold>) {
        let mut promised = self.hold(&lines).await;
        let (mut turns, mut holds) = (Vec::with_capacity(lines.len()), Vec::new());
        for line in lines {
            let problem = match promised.remove(&line.line).transpose() {
                Ok(hold) => {
                    holds.extend(hold);
                    None
                }
                Err(HoldError::SoldOut { available }) => Some(self.too_few(&line, available)),
                Err(HoldError::Refused(refusal) | HoldError::NotOffered(refusal)) => {
                    let times = progress.put_off.entry(line.line).or_default();
                    *times += 1;
                    if *times < PATIENCE {
                        continue;
                    }
                    Some((LineProblem::Unavailable, refusal.to_string()))
                }
            };
            progress.put_off.remove(&line.line);
            turns.push(Turn {
                line: line.line,
                sku_id: line.sku_id,
                delta: line.correction.delta(),
                expected: line.correction.expected(),
                note: line.reason,
                problem,
            });
        }
        (turns, holds)
    }

    /// What became of every line that takes stock away. They are asked for one after the other in order of SKU, as everybody
    /// asks: two who each kept what the other waits for would wait for ever.
    async fn hold(&self, lines: &[ImportLine]) -> HashMap<i32, Result<Hold, HoldError>> {
        let mut takers: Vec<&ImportLine> = lines.iter().filter(|line| line.correction.delta() < 0).collect();
        takers.sort_unstable_by_key(|line| line.sku_id);
        let mut promised = HashMap::with_capacity(takers.len());
        for line in takers {
            promised.insert(line.line, self.skus.hold(line.sku_id, -line.correction.delta()).await);
        }
        promised
    }

    /// Why a line that takes away finds too few: somebody has changed what it counts on, or buyers have it.
    fn too_few(&self, line: &ImportLine, available: i64) -> (LineProblem, String) {
        let on_hand = self.skus.committed(line.sku_id).map(|counters| counters.on_hand);
        match (line.correction, on_hand) {
            (Correction::To { expected, .. }, Some(on_hand)) if on_hand != expected => {
                (LineProblem::Changed, format!("{on_hand} are on hand, not {expected}"))
            }
            (Correction::To { .. } | Correction::By(_), _) => {
                (LineProblem::BelowReserved, format!("only {available} are not reserved"))
            }
        }
    }

    /// Settles these turns: all of them, or, where Postgres refuses the entry, none, unless it is one alone.
    async fn commit(&self, turns: Vec<Turn>, holds: Vec<Hold>) -> Result<Settled, Refusal> {
        if turns.is_empty() {
            return Ok(Settled::Whole);
        }
        self.context.faults.hit_for("import.chunk", || self.cell.key.to_string());
        let alone = if let [turn] = turns.as_slice() { Some(turn.clone()) } else { None };
        match self.append(turns, holds).await? {
            Verdict::Committed => Ok(Settled::Whole),
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::Failed => {
                if let Some(turn) = alone {
                    let problem = Some((LineProblem::Refused, "the database refuses it".to_owned()));
                    self.append(vec![Turn { problem, ..turn }], Vec::new()).await?;
                }
                Ok(Settled::Refused)
            }
            Verdict::KeyTaken | Verdict::Stale => Err(Refusal::Fault), // it has no key, order or condition
        }
    }

    async fn append(&self, turns: Vec<Turn>, holds: Vec<Hold>) -> Result<Verdict, Refusal> {
        let mut entry = Entry::new(self.context.clock.now(), Who::Staff);
        let chunk = Some(Chunk { import_id: self.cell.key, turns });
        entry.changes = Some(Box::new(Changes { chunk, ..Changes::default() }));
        entry.holds = holds;
        self.context.journal.commit(entry).await
    }
}

/// What became of an entry.
enum Settled {
    /// It is in Postgres.
    Whole,
    /// Postgres refused something in it.
    Refused,
}

/// How many of these lines can go together: one that takes away waits until what an earlier line of its SKU adds or takes is
/// committed. Promises are made from committed stock, and one that waits for another of its own entry waits for ever.
fn independent(lines: &[ImportLine]) -> usize {
    let mut before = HashSet::new();
    lines.iter().take_while(|line| before.insert(line.sku_id) || line.correction.delta() >= 0).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_away_waits_for_the_lines_before_it_of_its_sku() {
        let lines = |deltas: &[(i64, i64)]| -> Vec<ImportLine> {
            let line = |(number, (sku, delta)): (i32, &(i64, i64))| ImportLine {
                line: number,
                code: String::new(),
                sku_id: SkuId(*sku),
                correction: Correction::By(*delta),
                reason: String::new(),
            };
            (1..).zip(deltas).map(line).collect()
        };
        for (deltas, together) in [
            (&[(1, -1), (2, -1), (3, 1)][..], 3),
            (&[(1, 1), (1, 1), (1, 1)][..], 3),
            (&[(1, -5), (2, -1), (1, -5)][..], 2),
            (&[(1, 5), (1, -1)][..], 1),
            (&[(1, -5), (1, 5), (2, -1)][..], 3),
        ] {
            assert_eq!(independent(&lines(deltas)), together, "{deltas:?}");
        }
    }
}
