//! What staff ask with a file of stock corrections.

use std::collections::{HashMap, HashSet};

use super::Engine;
use crate::{
    domain::{
        BadLine, Counters, ImportId, ImportLine, ImportMode, ImportState, ImportView, Refusal, SkuId, Who,
        change::Changes, rehearse,
    },
    error,
    flights::Boarding,
    journal::Verdict,
    store::{
        entry::{Entry, Key},
        load,
    },
};

/// SKUs of one question for counters.
const ASKED_AT_ONCE: usize = 5_000;

/// A file of stock corrections, read.
#[derive(Debug, Clone)]
pub struct Import {
    /// Whose key.
    pub principal: String,
    /// The client's idempotency key.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// What becomes of bad lines.
    pub mode: ImportMode,
    /// The lines that could be read, in the file's order.
    pub lines: Vec<ImportLine>,
    /// The lines that could not.
    pub bad: Vec<BadLine>,
}

/// An import that was taken, or rejected.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Which.
    pub import_id: ImportId,
    /// Whether this key had brought it before.
    pub replayed: bool,
}

impl Engine {
    /// Checks a file against the stock there is, line by line, and takes it: from here on it is applied, whoever dies. With
    /// a bad line and [`ImportMode::All`] it is kept as rejected, for its errors to be read, and nothing is applied. The same
    /// key again finds the same import; a rejected file leaves its key free.
    ///
    /// # Errors
    /// [`Refusal::KeyReused`], [`Refusal::Away`].
    pub async fn import(&self, import: Import) -> Result<Imported, Refusal> {
        let Import { principal, key, fingerprint, mode, mut lines, mut bad } = import;
        let _flight = loop {
            self.serving()?;
            if let Some(import_id) = self.used(&principal, &key, "import", &fingerprint).await? {
                return Ok(Imported { import_id: ImportId(import_id), replayed: true });
            }
            match self.flights.board(&principal, &key, fingerprint)? {
                Boarding::First(flight) => break flight,
                Boarding::Behind(mut other) => drop(other.changed().await), // ends with its sender
            }
        };
        bad.extend(rehearse(&lines, self.stock_of(&lines).await?));
        bad.sort_by_key(|bad| bad.line);
        let unfit: HashSet<i32> = bad.iter().map(|bad| bad.line).collect();
        let total = lines.iter().filter(|line| !unfit.contains(&line.line)).count() + bad.len();
        lines.retain(|line| mode == ImportMode::Partial && !unfit.contains(&line.line) || bad.is_empty());

        let import_id = ImportId(self.context.ids.take(1).await?.start);
        let now = self.context.clock.now();
        let rejected = mode == ImportMode::All && !bad.is_empty();
        let view = ImportView {
            import_id,
            mode,
            state: if rejected { ImportState::Rejected } else { ImportState::Applying },
            total: count(total),
            applied: 0,
            failed: count(bad.len()),
            created_at: now,
            finished_at: rejected.then_some(now),
        };
        load::imports::stage(&self.context.pool, &view, &lines, &bad).await.map_err(|error| error::refusal(&error))?;
        if rejected {
            return Ok(Imported { import_id, replayed: false });
        }
        let key = Key { principal, key, route: "import", fingerprint, ref_id: import_id.0 };
        self.open_import(import_id, key).await
    }

    /// One entry: the key, and from now on the lines count.
    async fn open_import(&self, import_id: ImportId, key: Key) -> Result<Imported, Refusal> {
        let Key { principal, key: text, fingerprint, .. } = key.clone();
        let mut entry = Entry::new(self.context.clock.now(), Who::Staff);
        entry.key = Some(key);
        entry.changes = Some(Box::new(Changes { import: Some(import_id), ..Changes::default() }));
        match self.context.journal.commit(entry).await? {
            Verdict::Committed => {
                self.actors.imports.tell(import_id).await;
                Ok(Imported { import_id, replayed: false })
            }
            Verdict::KeyTaken => {
                // what is left of it, should this fail too, is swept up later
                load::imports::discard(&self.context.pool, import_id).await.ok();
                let before = self.used(&principal, &text, "import", &fingerprint).await?.ok_or(Refusal::Fault)?;
                Ok(Imported { import_id: ImportId(before), replayed: true })
            }
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
        }
    }

    async fn stock_of(&self, lines: &[ImportLine]) -> Result<HashMap<SkuId, Counters>, Refusal> {
        let mut sku_ids: Vec<i64> = lines.iter().map(|line| line.sku_id.0).collect();
        sku_ids.sort_unstable();
        sku_ids.dedup();
        let mut stock = HashMap::with_capacity(sku_ids.len());
        for some in sku_ids.chunks(ASKED_AT_ONCE) {
            let found = load::counters(&self.context.pool, some).await.map_err(|error| error::refusal(&error))?;
            stock.extend(found.into_iter().map(|(sku_id, counters)| (SkuId(sku_id), counters)));
        }
        Ok(stock)
    }

    /// An import as committed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn stock_import(&self, import_id: ImportId) -> Result<ImportView, Refusal> {
        let found = load::imports::one(&self.context.pool, import_id).await.map_err(|error| error::refusal(&error))?;
        found.ok_or(Refusal::NotFound("import"))
    }

    /// Imports, newest first.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn stock_imports(&self, before: Option<ImportId>, most: i64) -> Result<Vec<ImportView>, Refusal> {
        load::imports::list(&self.context.reading, before, most).await.map_err(|error| error::refusal(&error))
    }

    /// The lines of an import that failed, in the file's order, behind line `after`.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn import_errors(&self, import_id: ImportId, after: i32, most: i64) -> Result<Vec<BadLine>, Refusal> {
        self.stock_import(import_id).await?;
        let failed = load::imports::failed(&self.context.reading, import_id, after, most).await;
        failed.map_err(|error| error::refusal(&error))
    }
}

/// A file has no more lines than its size allows, and that is far less.
fn count(lines: usize) -> i32 {
    i32::try_from(lines).unwrap_or(i32::MAX)
}
