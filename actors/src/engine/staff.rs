//! What staff ask.

use super::Engine;
use crate::{
    domain::{
        Correction, Counters, Invalid, MOST_UNITS, OrderId, OrderStatus, PartState, Refusal, ShortLine, SkuId, Who,
        change::{Adjustment, Changes, OnHand, Opening},
    },
    error,
    journal::Verdict,
    sku::HoldError,
    store::{
        entry::{Entry, Key, Line},
        read::{self, LedgerRow, OrderRow},
    },
};

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
    /// By how much, or to how much.
    pub correction: Correction,
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

    /// Corrects a SKU's stock. The same key again changes nothing more. Answers with the counters now.
    ///
    /// # Errors
    /// [`Refusal::BelowReserved`], [`Refusal::StockChanged`], [`Refusal::NotFound`], [`Refusal::KeyReused`].
    pub async fn adjust(&self, adjust: Adjust) -> Result<Counters, Refusal> {
        self.serving()?;
        check(adjust.correction)?;
        loop {
            if let Some(()) = self.adjusted_before(&adjust).await? {
                return self.counters(adjust.sku_id).await;
            }
            match self.try_to_adjust(&adjust).await {
                // back to what was expected, meanwhile
                Ok(Verdict::Stale) => {}
                Ok(Verdict::Committed) => return self.counters(adjust.sku_id).await,
                Ok(Verdict::KeyTaken) => {
                    self.adjusted_before(&adjust).await?;
                    return self.counters(adjust.sku_id).await;
                }
                Ok(Verdict::Superseded) => return Err(Refusal::Superseded),
                Ok(Verdict::Failed) => return Err(Refusal::Fault),
                Err(refusal @ (Refusal::BelowReserved { .. } | Refusal::StockChanged { .. })) => {
                    // the correction that this key has made may be why
                    let done = self.adjusted_before(&adjust).await?.is_some();
                    return if done { self.counters(adjust.sku_id).await } else { Err(refusal) };
                }
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// One try. What it expects is looked at first, to say no without a write, and proved by the journal, which may say
    /// that it is stale.
    async fn try_to_adjust(&self, adjust: &Adjust) -> Result<Verdict, Refusal> {
        let delta = adjust.correction.delta();
        self.as_expected(adjust).await?;
        let mut entry = Entry::new(self.context.clock.now(), Who::Staff);
        if delta < 0 {
            match self.actors.skus.hold(adjust.sku_id, -delta).await {
                Ok(hold) => entry.holds.push(hold),
                Err(HoldError::SoldOut { available }) => {
                    self.as_expected(adjust).await?;
                    return Err(Refusal::BelowReserved { available });
                }
                Err(HoldError::Refused(refusal) | HoldError::NotOffered(refusal)) => return Err(refusal),
            }
        }
        let mut ids = self.context.ids.take(2).await?;
        let (ref_id, condition_id) = (ids.start, ids.next_back().unwrap_or_default());
        let (principal, key) = (adjust.principal.clone(), adjust.key.clone());
        entry.key = Some(Key { principal, key, route: "adjust", fingerprint: adjust.fingerprint, ref_id });
        let only_if = adjust.correction.expected().map(|expected| OnHand { expected, id: condition_id });
        let row = Adjustment { sku_id: adjust.sku_id, delta, only_if, note: adjust.reason.clone() };
        entry.changes = Some(Box::new(Changes { adjustments: vec![row], ..Changes::default() }));
        let verdict = self.context.journal.commit(entry).await?;
        if verdict == Verdict::Stale {
            self.as_expected(adjust).await?;
        }
        Ok(verdict)
    }

    async fn as_expected(&self, adjust: &Adjust) -> Result<(), Refusal> {
        let Counters { on_hand, .. } = self.counters(adjust.sku_id).await?;
        match adjust.correction.expected() {
            Some(expected) if expected != on_hand => Err(Refusal::StockChanged { on_hand }),
            Some(_) | None => Ok(()),
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
        read::ledger(&self.context.reading, sku_id, before, most).await.map_err(|error| error::refusal(&error))
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
        read::orders(&self.context.reading, before, status, most).await.map_err(|error| error::refusal(&error))
    }

    /// A reservation without the order around it: what the write path costs by itself. For `make bench`; a shop places
    /// orders.
    ///
    /// # Errors
    /// As [`Engine::checkout`].
    #[doc(hidden)]
    pub async fn reserve(&self, sku_id: SkuId, units: i64, unit_price_minor: i64) -> Result<(), Refusal> {
        let _permit = self.admit()?;
        let hold = self.actors.skus.hold(sku_id, units).await.map_err(|error| match error {
            HoldError::SoldOut { available } => {
                Refusal::OutOfStock(vec![ShortLine { sku_id, requested: units, available }])
            }
            HoldError::Refused(refusal) | HoldError::NotOffered(refusal) => refusal,
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

fn check(correction: Correction) -> Result<(), Invalid> {
    match correction {
        Correction::By(delta) if delta == 0 || delta.unsigned_abs() > MOST_UNITS.unsigned_abs() => {
            Err(Invalid::new("delta", format!("is a whole number from 1 to {MOST_UNITS}, up or down")))
        }
        Correction::To { units, .. } if !(0..=MOST_UNITS).contains(&units) => {
            Err(Invalid::new("set", format!("is a whole number from 0 to {MOST_UNITS}")))
        }
        Correction::To { expected, .. } if expected < 0 => Err(Invalid::new("expected", "is a whole number from 0")),
        Correction::By(_) | Correction::To { .. } => Ok(()),
    }
}
