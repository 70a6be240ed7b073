//! What staff ask.

use super::Engine;
use crate::{
    domain::{
        Counters, Invalid, OrderId, OrderStatus, PartState, Refusal, ShortLine, SkuId, Who,
        change::{Adjustment, Changes, Opening},
    },
    error,
    journal::Verdict,
    sku::HoldError,
    store::{
        entry::{Entry, Key, Line},
        read::{self, LedgerRow, OrderRow},
    },
};

/// No SKU opens with more, and no correction is larger: far from every overflow.
const MOST_UNITS: i64 = 1_000_000_000;

/// A staff correction of stock.
#[derive(Debug, Clone)]
pub struct Adjust {
    /// Whose key.
    pub principal: String,
    /// The client's idempotency key.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// Of which SKU.
    pub sku_id: SkuId,
    /// By how many units, up or down.
    pub delta: i64,
    /// Why.
    pub reason: String,
}

impl Engine {
    /// Numbers for the shop's own records, from the engine's one series.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn ids(&self, count: i64) -> Result<std::ops::Range<i64>, Refusal> {
        self.context.ids.take(count).await
    }

    /// Opens SKUs with their first stock. Those that are open already are left as they are.
    ///
    /// # Errors
    /// [`Refusal::Away`] and the like.
    pub async fn open_stock(&self, openings: Vec<Opening>) -> Result<(), Refusal> {
        self.serving()?;
        if openings.iter().any(|opening| !(0..=MOST_UNITS).contains(&opening.on_hand)) {
            return Err(Invalid::new("on_hand", format!("is a whole number from 0 to {MOST_UNITS}")).into());
        }
        let mut entry = Entry::new(self.context.clock.now(), Who::Staff);
        entry.changes = Some(Box::new(Changes { openings, ..Changes::default() }));
        match self.context.journal.commit(entry).await? {
            Verdict::Committed => Ok(()),
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::KeyTaken | Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
        }
    }

    /// Corrects a SKU's stock by `delta`. The same key again changes nothing more. Answers with the counters now.
    ///
    /// # Errors
    /// [`Refusal::BelowReserved`], [`Refusal::NotFound`], [`Refusal::KeyReused`].
    pub async fn adjust(&self, adjust: Adjust) -> Result<Counters, Refusal> {
        self.serving()?;
        if adjust.delta == 0 || adjust.delta.unsigned_abs() > MOST_UNITS.unsigned_abs() {
            return Err(Invalid::new("delta", format!("is a whole number from 1 to {MOST_UNITS}, up or down")).into());
        }
        if let Some(()) = self.adjusted_before(&adjust).await? {
            return self.counters(adjust.sku_id).await;
        }
        let mut entry = Entry::new(self.context.clock.now(), Who::Staff);
        if adjust.delta < 0 {
            match self.skus.hold(adjust.sku_id, -adjust.delta).await {
                Ok(hold) => entry.holds.push(hold),
                Err(HoldError::SoldOut { available }) => {
                    // the correction that this key has made may be why there is nothing left
                    let done = self.adjusted_before(&adjust).await?.is_some();
                    let short = Refusal::BelowReserved { available };
                    return if done { self.counters(adjust.sku_id).await } else { Err(short) };
                }
                Err(HoldError::Refused(refusal)) => return Err(refusal),
            }
        } else {
            self.counters(adjust.sku_id).await?;
        }
        let ref_id = self.context.ids.take(1).await?.start;
        let (principal, key) = (adjust.principal.clone(), adjust.key.clone());
        entry.key = Some(Key { principal, key, route: "adjust", fingerprint: adjust.fingerprint, ref_id });
        let row = Adjustment { sku_id: adjust.sku_id, delta: adjust.delta, note: adjust.reason.clone() };
        entry.changes = Some(Box::new(Changes { adjustments: vec![row], ..Changes::default() }));
        match self.context.journal.commit(entry).await? {
            Verdict::Committed => self.counters(adjust.sku_id).await,
            Verdict::KeyTaken => {
                self.adjusted_before(&adjust).await?;
                self.counters(adjust.sku_id).await
            }
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
        }
    }

    pub(super) async fn adjusted_before(&self, adjust: &Adjust) -> Result<Option<()>, Refusal> {
        let used = self.used(&adjust.principal, &adjust.key, "adjust", &adjust.fingerprint).await?;
        Ok(used.map(drop))
    }

    /// A SKU's counters as committed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn counters(&self, sku_id: SkuId) -> Result<Counters, Refusal> {
        let found = read::counters(&self.context.pool, sku_id).await.map_err(|error| error::refusal(&error))?;
        found.ok_or(Refusal::NotFound("SKU"))
    }

    /// A SKU's ledger, newest first.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn ledger(&self, sku_id: SkuId, before: Option<i64>, most: i64) -> Result<Vec<LedgerRow>, Refusal> {
        read::ledger(&self.context.pool, sku_id, before, most).await.map_err(|error| error::refusal(&error))
    }

    /// Orders, newest first.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn orders(
        &self,
        before: Option<OrderId>,
        status: Option<OrderStatus>,
        most: i64,
    ) -> Result<Vec<OrderRow>, Refusal> {
        read::orders(&self.context.pool, before, status, most).await.map_err(|error| error::refusal(&error))
    }

    /// A reservation without the order around it: what the write path costs by itself. For `make bench`; a shop places
    /// orders.
    ///
    /// # Errors
    /// As [`Engine::checkout`].
    #[doc(hidden)]
    pub async fn reserve(&self, sku_id: SkuId, units: i64, unit_price_minor: i64) -> Result<(), Refusal> {
        let _permit = self.admit()?;
        let hold = self.skus.hold(sku_id, units).await.map_err(|error| match error {
            HoldError::SoldOut { available } => {
                Refusal::OutOfStock(vec![ShortLine { sku_id, requested: units, available }])
            }
            HoldError::Refused(refusal) => refusal,
        })?;
        let order_id = OrderId(self.context.ids.take(1).await?.start);
        let mut entry = Entry::new(self.context.clock.now(), Who::Buyer);
        entry.lines.push(Line { order_id, part: 0, line: 0, unit_price_minor, state: PartState::Held, hold });
        match self.context.journal.commit(entry).await? {
            Verdict::Committed => Ok(()),
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::KeyTaken | Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
        }
    }
}
