//! What staff ask of sales, and how SKUs that are in one are sold.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::OwnedMutexGuard;

use super::Engine;
use crate::{
    domain::{
        Invalid, NewSale, Offer, Refusal, Sale, SaleChange, SaleId, SaleItem, SkuId, Who,
        change::{Changes, SaleRow},
    },
    error,
    journal::Verdict,
    order::CommandKey,
    store::{
        entry::{Entry, Key},
        load,
        read::{self, SaleList, SaleView},
    },
};

/// What a command about a sale came to.
#[derive(Debug, Clone)]
pub struct Made {
    /// The sale as it is now.
    pub sale: SaleView,
    /// Whether it had been carried out before, with the same key.
    pub replayed: bool,
}

/// What a sale is to be, decided at a moment by who alone may decide then.
struct Decided {
    sale: Sale,
    at: DateTime<Utc>,
    one_at_a_time: OwnedMutexGuard<()>,
}

/// How a SKU is sold.
#[derive(Debug, Clone)]
pub enum Selling {
    /// At its usual price.
    Usual,
    /// In this sale.
    InSale(Arc<Sale>),
    /// Not before this sale begins.
    NotBefore(Arc<Sale>),
}

/// Under which route the key of a sale is kept that it was made with, and those that it was changed with.
const MAKE: &str = "sale";
const CHANGE: &str = "sale change";

impl Engine {
    /// Makes a sale. The same key again finds the same one.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::SaleOverlaps`], [`Refusal::KeyReused`] and the like.
    pub async fn make_sale(&self, new: NewSale, key: CommandKey) -> Result<Made, Refusal> {
        self.serving()?;
        let one_at_a_time = self.context.sales.one_at_a_time().await;
        if let Some(id) = self.used(&key.principal, &key.key, MAKE, &key.fingerprint).await? {
            return Ok(Made { sale: self.reread(SaleId(id)).await?, replayed: true });
        }
        let at = self.context.clock.now();
        let sale = Sale {
            id: SaleId(self.context.ids.take(1).await?.start),
            version: 1,
            name: new.name,
            starts_at: new.starts_at.unwrap_or(at),
            ends_at: new.ends_at,
            per_customer: new.per_customer,
            hold: new.hold,
            waiting_room: new.waiting_room,
            cancelled_at: None,
            created_at: at,
            items: self.items(new.items).await?,
        };
        let sale = sale.checked()?;
        sale.lies_ahead(at, true)?;
        self.check_hold(&sale)?;
        let ref_id = sale.id.0;
        self.commit_sale(Decided { sale, at, one_at_a_time }, key, MAKE, ref_id).await
    }

    /// Changes a sale, as far as it can still change; where `items` are given, they replace what is sold in it.
    ///
    /// # Errors
    /// [`Refusal::SaleState`], [`Refusal::BelowSold`], and as for a new one.
    pub async fn change_sale(
        &self,
        id: SaleId,
        mut change: SaleChange,
        items: Option<Vec<(SaleItem, Option<bool>)>>,
        key: CommandKey,
    ) -> Result<Made, Refusal> {
        self.with_sale(id, key, async |sale| {
            if let Some(items) = items {
                change.items = Some(self.items(items).await?);
            }
            let at = self.context.clock.now();
            let changed = sale.changed(change, at)?;
            self.check_hold(&changed)?;
            Ok(Some((changed, at)))
        })
        .await
    }

    /// Calls a sale off, or ends it now. One that is over stays as it is. What was bought in it stays bought.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] and the like.
    pub async fn end_sale(&self, id: SaleId, key: CommandKey) -> Result<Made, Refusal> {
        self.with_sale(id, key, async |sale| {
            let at = self.context.clock.now();
            Ok(sale.ended(at).map(|ended| (ended, at)))
        })
        .await
    }

    async fn with_sale(
        &self,
        id: SaleId,
        key: CommandKey,
        change: impl AsyncFnOnce(Sale) -> Result<Option<(Sale, DateTime<Utc>)>, Refusal>,
    ) -> Result<Made, Refusal> {
        self.serving()?;
        let one_at_a_time = self.context.sales.one_at_a_time().await;
        let before = self.reread(id).await?;
        if self.used(&key.principal, &key.key, CHANGE, &key.fingerprint).await?.is_some() {
            return Ok(Made { sale: before, replayed: true });
        }
        match change(before.sale.clone()).await? {
            Some((sale, at)) => {
                let ref_id = self.context.ids.take(1).await?.start;
                self.commit_sale(Decided { sale, at, one_at_a_time }, key, CHANGE, ref_id).await
            }
            None => Ok(Made { sale: before, replayed: false }),
        }
    }

    /// A sale as committed; memory takes it in like every commit. For whoever alone may change sales.
    async fn reread(&self, id: SaleId) -> Result<SaleView, Refusal> {
        let view = self.sale(id).await?;
        self.context.sales.put(view.sale.clone());
        Ok(view)
    }

    fn check_hold(&self, sale: &Sale) -> Result<(), Invalid> {
        match sale.hold {
            Some(hold) if hold <= self.context.policy.capture_margin => {
                Err(Invalid::new("hold_minutes", "is over before a payment could be taken"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Commits a sale and believes it, also where whoever asked has left.
    async fn commit_sale(
        &self,
        decided: Decided,
        key: CommandKey,
        route: &'static str,
        ref_id: i64,
    ) -> Result<Made, Refusal> {
        let Decided { sale, at, one_at_a_time } = decided;
        let others = self.context.sales.list();
        let meets =
            others.iter().filter(|other| other.is_open(at)).find_map(|other| Some((sale.meets(other)?, other.id)));
        if let Some((sku_id, sale_id)) = meets {
            return Err(Refusal::SaleOverlaps { sku_id, sale_id });
        }
        let condition_id = self.context.ids.take(1).await?.start;
        let CommandKey { principal, key, fingerprint } = key;
        let mut entry = Entry::new(at, Who::Staff);
        entry.key = Some(Key { principal, key, route, fingerprint, ref_id });
        let row = SaleRow { sale: sale.clone(), condition_id };
        entry.changes = Some(Box::new(Changes { sale: Some(row), ..Changes::default() }));
        let (sales, committed) = (Arc::clone(&self.context.sales), sale.clone());
        let believe = move |verdict| {
            if verdict == Verdict::Committed {
                sales.put(committed);
            }
            drop(one_at_a_time);
        };
        match self.context.journal.commit_and(entry, believe).await? {
            Verdict::Committed => Ok(Made { sale: self.sale(sale.id).await?, replayed: false }),
            Verdict::Stale => Err(self.why_not(&sale).await?),
            Verdict::KeyTaken => Err(Refusal::KeyReused), // by another command, just now
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::Failed => Err(Refusal::Fault),
        }
    }

    /// Why a sale could not become this.
    async fn why_not(&self, wanted: &Sale) -> Result<Refusal, Refusal> {
        let now = self.sale(wanted.id).await?;
        let short = now.items.iter().find(|q| wanted.item(q.item.sku_id).map_or(0, |item| item.quantity) < q.sold);
        Ok(short.map_or(Refusal::Busy, |q| Refusal::BelowSold { sku_id: q.item.sku_id, sold: q.sold }))
    }

    /// SKUs that are to be sold in a sale: every one must be there, and is sold in it alone where the sale has all there is.
    async fn items(&self, wanted: Vec<(SaleItem, Option<bool>)>) -> Result<Vec<SaleItem>, Refusal> {
        let sku_ids: Vec<i64> = wanted.iter().map(|(item, _)| item.sku_id.0).collect();
        let counters = load::counters(&self.context.pool, &sku_ids).await.map_err(|error| error::refusal(&error))?;
        let item = |(at, (item, exclusive)): (usize, (SaleItem, Option<bool>))| {
            let unknown = || Invalid::new(format!("skus[{at}].sku_id"), format!("there is no SKU {}", item.sku_id));
            let available = counters.get(&item.sku_id.0).ok_or_else(unknown)?.available();
            let exclusive = exclusive.unwrap_or(item.quantity >= available);
            Ok(SaleItem { exclusive, ..item })
        };
        wanted.into_iter().enumerate().map(item).collect()
    }

    /// Sales, newest first.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn sales(&self, list: SaleList) -> Result<Vec<SaleView>, Refusal> {
        let found = read::sales(&self.context.pool, list, self.context.clock.now()).await;
        found.map_err(|error| error::refusal(&error))
    }

    /// A sale as committed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn sale(&self, id: SaleId) -> Result<SaleView, Refusal> {
        let found = read::sale(&self.context.pool, id, self.context.clock.now()).await;
        found.map_err(|error| error::refusal(&error))?.ok_or(Refusal::NotFound("sale"))
    }

    /// How a SKU is sold at this moment: what a quote is made of. The SKU's actor has the last word.
    #[must_use]
    pub fn selling(&self, sku_id: SkuId) -> Selling {
        let Some(sales) = self.context.sales.of(sku_id) else { return Selling::Usual };
        let sold = |sale_id| self.actors.skus.sold_in(sku_id, sale_id).unwrap_or(0);
        match Offer::of(&sales, sku_id, self.context.clock.now(), sold) {
            Offer::Usual { .. } => Selling::Usual,
            Offer::InSale(sale, _) => Selling::InSale(Arc::clone(sale)),
            Offer::NotBefore(sale) => Selling::NotBefore(Arc::clone(sale)),
        }
    }

    /// The sale that a SKU is in now, or the next one that it will be in.
    #[must_use]
    pub fn sale_of(&self, sku_id: SkuId) -> Option<Arc<Sale>> {
        let at = self.context.clock.now();
        self.context.sales.of(sku_id)?.iter().find(|sale| sale.is_open(at)).cloned()
    }
}
