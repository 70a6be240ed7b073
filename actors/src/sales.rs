//! The sales that are coming or running, in memory: whoever quotes a price or promises a unit asks here, and asks Postgres
//! for nothing.
//!
//! This engine alone writes their tables, and what it holds here changes after the commit. A decision that was made on terms
//! which have just changed is refused by the database, and made again.

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::domain::{Sale, SaleId, SkuId};

/// How long before a sale begins its SKUs' actors are woken.
const WARM_UP: TimeDelta = TimeDelta::minutes(1);

/// What the engine knows of its sales.
#[derive(Default)]
pub(crate) struct Sales {
    /// Whether there are any: where there are none a checkout pays one look.
    any: AtomicBool,
    open: RwLock<Arc<Open>>,
    changing: Arc<Mutex<()>>,
}

#[derive(Default)]
struct Open {
    by_id: HashMap<SaleId, Arc<Sale>>,
    /// The earliest first.
    by_sku: HashMap<SkuId, Arc<[Arc<Sale>]>>,
}

impl Sales {
    /// Takes in what Postgres knows, once this engine alone writes there and before it writes anything.
    pub(crate) fn learn(&self, sales: Vec<Sale>) {
        self.change(|open| open.extend(sales.into_iter().map(|sale| (sale.id, Arc::new(sale)))));
    }

    /// Held by whoever makes or changes a sale, until the change has been taken in or has fallen through: what is read,
    /// checked against the others and committed must not be overtaken.
    pub(crate) async fn one_at_a_time(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.changing).lock_owned().await
    }

    /// Takes in a sale that has been committed, new or changed.
    pub(crate) fn put(&self, sale: Sale) {
        self.change(|open| drop(open.insert(sale.id, Arc::new(sale))));
    }

    /// Forgets what is over, if anything is.
    pub(crate) fn forget_over(&self, at: DateTime<Utc>) {
        if self.list().iter().any(|sale| !sale.is_open(at)) {
            self.change(|open| open.retain(|_, sale| sale.is_open(at)));
        }
    }

    fn change(&self, how: impl FnOnce(&mut HashMap<SaleId, Arc<Sale>>)) {
        let mut open = self.open.write().expect("no panic under this lock");
        let mut by_id = open.by_id.clone();
        how(&mut by_id);
        let any = !by_id.is_empty();
        *open = Arc::new(Open { by_sku: by_sku(&by_id), by_id });
        self.any.store(any, Ordering::Release);
    }

    fn all(&self) -> Arc<Open> {
        Arc::clone(&self.open.read().expect("no panic under this lock"))
    }

    /// The sales that a SKU is in, the earliest first; over ones may be among them for a while.
    pub(crate) fn of(&self, sku_id: SkuId) -> Option<Arc<[Arc<Sale>]>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.open.read().expect("no panic under this lock").by_sku.get(&sku_id).cloned()
    }

    /// A sale that is coming or running.
    pub(crate) fn get(&self, id: SaleId) -> Option<Arc<Sale>> {
        self.all().by_id.get(&id).cloned()
    }

    /// Whether a SKU's actor stays awake: a sale that it is in is running, or about to begin.
    pub(crate) fn keep_awake(&self, sku_id: SkuId, at: DateTime<Utc>) -> bool {
        self.of(sku_id).is_some_and(|sales| sales.iter().any(|sale| is_warm(sale, at)))
    }

    /// The SKUs whose actors are to be awake.
    pub(crate) fn awake(&self, at: DateTime<Utc>) -> Vec<SkuId> {
        let warm = self.list().into_iter().filter(|sale| is_warm(sale, at));
        warm.flat_map(|sale| sale.items.iter().map(|item| item.sku_id).collect::<Vec<_>>()).collect()
    }

    /// Every sale that is coming or running.
    pub(crate) fn list(&self) -> Vec<Arc<Sale>> {
        self.all().by_id.values().cloned().collect()
    }
}

fn is_warm(sale: &Sale, at: DateTime<Utc>) -> bool {
    sale.is_open(at) && at >= sale.starts_at - WARM_UP
}

fn by_sku(by_id: &HashMap<SaleId, Arc<Sale>>) -> HashMap<SkuId, Arc<[Arc<Sale>]>> {
    let mut sales: Vec<&Arc<Sale>> = by_id.values().collect();
    sales.sort_unstable_by_key(|sale| (sale.starts_at, sale.id));
    let mut by_sku: HashMap<SkuId, Vec<Arc<Sale>>> = HashMap::new();
    for sale in sales {
        sale.items.iter().for_each(|item| by_sku.entry(item.sku_id).or_default().push(Arc::clone(sale)));
    }
    by_sku.into_iter().map(|(sku_id, sales)| (sku_id, sales.into())).collect()
}
