//! What every actor of one engine needs: the clock, the rules, the journal, the numbers, the pool, the faults.

use std::{collections::HashMap, sync::Arc};

use sqlx::PgPool;

use crate::{
    clock::Clock,
    domain::{Address, Channel, Policy, RoomRules},
    faults::Faults,
    journal::Journal,
    listeners::Listeners,
    news::News,
    ports::{Carrier, Notifier, PaymentProvider},
    retries::Retries,
    sales::Sales,
    store::Ids,
};

/// Shared by reference; nothing in it changes while the engine runs.
pub(crate) struct Context {
    pub clock: Clock,
    pub policy: Policy,
    pub rooms: RoomRules,
    pub journal: Journal,
    pub ids: Ids,
    /// For loading and looking, for ids and the inbox; stock, orders and money are written by the journal alone.
    pub pool: PgPool,
    /// For the reconciler, which looks what is due.
    pub looking: PgPool,
    /// For lists and other questions of people, which may take their time: no actor waits behind them.
    pub reading: PgPool,
    pub faults: Arc<Faults>,
    pub providers: HashMap<&'static str, Arc<dyn PaymentProvider>>,
    pub carriers: HashMap<&'static str, Arc<dyn Carrier>>,
    /// Where parcels begin; without it no carrier is asked for a label.
    pub ship_from: Option<Address>,
    /// The ways out for news.
    pub notifiers: HashMap<Channel, Arc<dyn Notifier>>,
    /// Who is to hear of what.
    pub news: Arc<News>,
    /// The sales that are coming or running.
    pub sales: Arc<Sales>,
    /// Who listens to stock.
    pub listeners: Listeners,
    /// Which checkouts may be retries.
    pub retries: Retries,
    /// Where buyers come back to after approving.
    pub return_urls: ReturnUrls,
}

/// Makes the addresses that a provider sends a buyer back to.
pub type ReturnUrls = Arc<dyn Fn(crate::domain::OrderId) -> (String, String) + Send + Sync>;
