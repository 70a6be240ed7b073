//! What buyers and their providers ask.

use std::collections::HashMap;

use super::{Boarding, Engine};
use crate::{
    checkout::{Checkout, Outcome, Placed},
    domain::{Command, Commanded, Invalid, OrderId, OrderStatus, Refusal, SkuId, Who},
    error,
    order::{CommandKey, Msg},
    store::{
        inbox::{self, InboxRow},
        load,
        read::{self, EventView, OrderView},
    },
};

/// How a checkout ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckedOut {
    /// A new order.
    New(Placed),
    /// The order that this key had placed before.
    Replayed(OrderId),
}

/// A verified webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// From whom.
    pub provider: &'static str,
    /// The provider's id of the event.
    pub event_id: String,
    /// The provider's id of the delivery, which is what its signature covers.
    pub transmission_id: String,
    /// As it came.
    pub body: Vec<u8>,
}

impl Engine {
    /// Places an order: its lines are held and it is in Postgres, or nothing has happened. The same key again finds the
    /// same order.
    ///
    /// # Errors
    /// Any [`Refusal`]; after [`Refusal::Unknown`] the same key tells.
    pub async fn checkout(&self, checkout: Checkout) -> Result<CheckedOut, Refusal> {
        checkout.check()?;
        if let Some(provider) = &checkout.payment {
            self.takes(provider)?;
        }
        let (principal, key, fingerprint) = (checkout.principal.clone(), checkout.key.clone(), checkout.fingerprint);
        let _flight = loop {
            match self.flights.board(&principal, &key, fingerprint)? {
                Boarding::First(flight) => break flight,
                Boarding::Behind(mut other) => {
                    other.changed().await.ok(); // ends with its sender
                    if let Some(order_id) = self.placed_before(&principal, &key, &fingerprint).await? {
                        return Ok(CheckedOut::Replayed(order_id));
                    }
                }
            }
        };
        let permit = self.admit()?;
        match self.checkouts.begin(checkout, permit).await {
            Ok(Outcome::Placed(placed)) => Ok(CheckedOut::New(placed)),
            Ok(Outcome::KeyTaken) => {
                let before = self.placed_before(&principal, &key, &fingerprint).await?;
                before.map(CheckedOut::Replayed).ok_or(Refusal::Fault)
            }
            // the order that this key has placed may be why there is nothing left
            Err(refusal @ (Refusal::OutOfStock(_) | Refusal::Invalid(_))) => {
                let before = self.placed_before(&principal, &key, &fingerprint).await?;
                before.map(CheckedOut::Replayed).ok_or(refusal)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// The order that a key has placed, if it has.
    ///
    /// # Errors
    /// [`Refusal::KeyReused`] where it was used for something else.
    pub async fn placed_before(
        &self,
        principal: &str,
        key: &str,
        fingerprint: &[u8; 32],
    ) -> Result<Option<OrderId>, Refusal> {
        let used = self.used(principal, key, "checkout", fingerprint).await?;
        Ok(used.map(OrderId))
    }

    pub(super) async fn used(
        &self,
        principal: &str,
        key: &str,
        route: &str,
        fingerprint: &[u8; 32],
    ) -> Result<Option<i64>, Refusal> {
        let used = load::used(&self.context.pool, principal, key).await.map_err(|error| error::refusal(&error))?;
        let Some(used) = used else { return Ok(None) };
        if used.route != route || used.fingerprint != fingerprint {
            return Err(Refusal::KeyReused);
        }
        Ok(Some(used.ref_id))
    }

    /// Opens a payment of an order, or finds the open one; answers with the page where the buyer approves it.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] where there is nothing to pay; the caller bounds the time it waits for the provider.
    pub async fn pay(&self, order_id: OrderId, provider: &str) -> Result<String, Refusal> {
        self.takes(provider)?;
        self.serving()?;
        let provider = provider.to_owned();
        self.actors.orders.0.ask(order_id, |reply| Msg::Pay { provider, reply }).await
    }

    pub(super) fn takes(&self, provider: &str) -> Result<(), Invalid> {
        let taken = self.context.providers.contains_key(provider);
        if taken { Ok(()) } else { Err(Invalid::new("provider", "is not one that this shop takes")) }
    }

    /// The buyer's browser is back from the provider, which proves nothing: the provider is asked.
    pub async fn look(&self, order_id: OrderId) {
        self.actors.orders.tell(order_id, Msg::Look).await;
    }

    /// Calls an order off as a whole: a buyer only before any of it is on its way. A second cancel finds it cancelled.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] once it is over, or on its way.
    pub async fn cancel(&self, order_id: OrderId, who: Who) -> Result<OrderStatus, Refusal> {
        self.serving()?;
        self.actors.orders.0.ask(order_id, |reply| Msg::Cancel { who, reply }).await
    }

    /// Asks something of a placed order. The same key again finds what it made.
    ///
    /// # Errors
    /// Any [`Refusal`]; after [`Refusal::Unknown`] the same key tells.
    pub async fn command(
        &self,
        order_id: OrderId,
        command: Command,
        who: Who,
        key: CommandKey,
    ) -> Result<Commanded, Refusal> {
        self.serving()?;
        if let Some(before) = self.commanded_before(&key).await? {
            return Ok(before);
        }
        match self.ask_order(order_id, command.clone(), who, key.clone()).await {
            Ok(commanded) => Ok(commanded),
            // the same key on its way twice: one that came to nothing after all gives it back
            Err(Refusal::KeyReused) => match self.commanded_before(&key).await? {
                Some(before) => Ok(before),
                None => self.ask_order(order_id, command, who, key).await,
            },
            // what it has made may be why it is refused now
            Err(refusal @ (Refusal::NotNow { .. } | Refusal::RefundExceeds { .. } | Refusal::Invalid(_))) => {
                self.commanded_before(&key).await?.ok_or(refusal)
            }
            Err(refusal) => Err(refusal),
        }
    }

    async fn ask_order(
        &self,
        order_id: OrderId,
        command: Command,
        who: Who,
        key: CommandKey,
    ) -> Result<Commanded, Refusal> {
        self.actors.orders.0.ask(order_id, |reply| Msg::Command { command, who, key, reply }).await
    }

    async fn commanded_before(&self, key: &CommandKey) -> Result<Option<Commanded>, Refusal> {
        let used = self.used(&key.principal, &key.key, CommandKey::ROUTE, &key.fingerprint).await?;
        Ok(used.map(|id| Commanded { id, replayed: true }))
    }

    /// An order as committed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn order(&self, order_id: OrderId) -> Result<OrderView, Refusal> {
        let found = read::order(&self.context.pool, order_id).await.map_err(|error| error::refusal(&error))?;
        found.ok_or(Refusal::NotFound("order"))
    }

    /// An order's timeline: all of it for staff, else what of it is for the buyer.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn events(&self, order_id: OrderId, for_staff: bool) -> Result<Vec<EventView>, Refusal> {
        let events = read::events(&self.context.pool, order_id, for_staff).await;
        let events = events.map_err(|error| error::refusal(&error))?;
        if events.is_empty() { Err(Refusal::NotFound("order")) } else { Ok(events) }
    }

    /// What can be sold of each SKU, as committed: from its actor's memory where it has one, else from Postgres. SKUs
    /// without stock are left out.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn available(&self, sku_ids: &[SkuId]) -> Result<HashMap<SkuId, i64>, Refusal> {
        let mut known: HashMap<SkuId, i64> = HashMap::with_capacity(sku_ids.len());
        let mut unknown = Vec::new();
        for sku_id in sku_ids {
            match self.actors.skus.committed(*sku_id) {
                Some(counters) => drop(known.insert(*sku_id, counters.available())),
                None => unknown.push(sku_id.0),
            }
        }
        if !unknown.is_empty() {
            let loaded = load::counters(&self.context.pool, &unknown).await.map_err(|error| error::refusal(&error))?;
            known.extend(loaded.into_iter().map(|(sku_id, counters)| (SkuId(sku_id), counters.available())));
        }
        Ok(known)
    }

    /// Keeps a verified webhook, durably; what it means is found out after the answer. False: it was here before.
    ///
    /// # Errors
    /// [`Refusal::Away`], and the provider sends it again.
    pub async fn webhook(&self, webhook: Webhook) -> Result<bool, Refusal> {
        let provider = self.context.providers.get(webhook.provider).ok_or(Refusal::NotFound("provider"))?;
        let locator = provider.locate(&webhook.body);
        let now = self.context.clock.now();
        let row = InboxRow {
            provider: webhook.provider,
            event_id: &webhook.event_id,
            transmission_id: &webhook.transmission_id,
            event_type: &locator.event_type,
            body: &webhook.body,
        };
        let inbox_id =
            inbox::store(&self.context.pool, &row, &locator, now).await.map_err(|error| error::refusal(&error))?;
        let Some(inbox_id) = inbox_id else { return Ok(false) };
        self.context.faults.hit("inbox.stored", "");
        self.actors.payments.signal(webhook.provider, inbox_id, locator).await;
        Ok(true)
    }
}
