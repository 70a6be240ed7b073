//! What is asked about parcels and goods that come back.

use super::Engine;
use crate::{
    domain::{OrderId, Refusal, ReturnId, ReturnState, ShipmentId},
    error,
    ports::LabelFile,
    store::{
        inbox::{self, InboxRow},
        load,
        read::{self, ReturnView, ShipmentView},
    },
};

/// A carrier's webhook whose sender was verified. It has no id of its own.
#[derive(Debug, Clone)]
pub struct ParcelWebhook {
    /// From whom.
    pub carrier: &'static str,
    /// As it came.
    pub body: Vec<u8>,
}

impl Engine {
    /// Keeps a carrier's verified webhook, durably; what it means is found out after the answer. False: the same news was
    /// here before.
    ///
    /// # Errors
    /// [`Refusal::Away`], and the carrier sends it again.
    pub async fn parcel_webhook(&self, webhook: ParcelWebhook) -> Result<bool, Refusal> {
        let carrier = self.context.carriers.get(webhook.carrier).ok_or(Refusal::NotFound("carrier"))?;
        let locator = carrier.locate(&webhook.body);
        let row = InboxRow {
            provider: webhook.carrier,
            event_id: &locator.fingerprint,
            transmission_id: &locator.fingerprint,
            event_type: &locator.event_type,
            body: &webhook.body,
        };
        let stored = inbox::store(&self.context.pool, &row, &locator, self.context.clock.now()).await;
        let inbox_id = stored.map_err(|error| error::refusal(&error))?;
        let Some(inbox_id) = inbox_id else { return Ok(false) };
        self.context.faults.hit("inbox.stored", "");
        self.actors.shipping.signal(webhook.carrier, inbox_id, locator).await;
        Ok(true)
    }

    /// An order's shipments, oldest first.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn shipments(&self, order_id: OrderId) -> Result<Vec<ShipmentView>, Refusal> {
        let found = read::shipments(&self.context.pool, order_id).await.map_err(|error| error::refusal(&error))?;
        found.ok_or(Refusal::NotFound("order"))
    }

    /// One of them.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn shipment(&self, order_id: OrderId, shipment_id: ShipmentId) -> Result<ShipmentView, Refusal> {
        let found = self.shipments(order_id).await?.into_iter().find(|shipment| shipment.shipment_id == shipment_id);
        found.ok_or(Refusal::NotFound("shipment"))
    }

    /// A shipment's printable label.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] while there is none; [`Refusal::Away`].
    pub async fn label(&self, order_id: OrderId, shipment_id: ShipmentId) -> Result<LabelFile, Refusal> {
        let found = load::label_file(&self.context.pool, order_id, shipment_id).await;
        found.map_err(|error| error::refusal(&error))?.ok_or(Refusal::NotFound("label"))
    }

    /// An order's returns, oldest first.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn returns(&self, order_id: OrderId) -> Result<Vec<ReturnView>, Refusal> {
        let found = read::returns(&self.context.pool, order_id).await.map_err(|error| error::refusal(&error))?;
        found.ok_or(Refusal::NotFound("order"))
    }

    /// A return.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn goods_return(&self, return_id: ReturnId) -> Result<ReturnView, Refusal> {
        let order_id = self.order_of_return(return_id).await?;
        let found = self.returns(order_id).await?.into_iter().find(|goods| goods.return_id == return_id);
        found.ok_or(Refusal::NotFound("return"))
    }

    /// Whose return it is.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn order_of_return(&self, return_id: ReturnId) -> Result<OrderId, Refusal> {
        let found = load::order_of_return(&self.context.pool, return_id).await;
        found.map_err(|error| error::refusal(&error))?.ok_or(Refusal::NotFound("return"))
    }

    /// Returns of all orders, newest first, those before `before` where it is given, of one state where it is given.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn all_returns(
        &self,
        before: Option<ReturnId>,
        state: Option<ReturnState>,
        most: i64,
    ) -> Result<Vec<ReturnView>, Refusal> {
        let listed = load::list_returns(&self.context.reading, before, state.map(ReturnState::as_str), most).await;
        let mut views = Vec::new();
        for (_, return_id) in listed.map_err(|error| error::refusal(&error))? {
            views.push(self.goods_return(return_id).await?);
        }
        Ok(views)
    }
}
