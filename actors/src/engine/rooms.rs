//! What those who wait for a sale ask.

use super::Engine;
use crate::{
    domain::{Refusal, SaleId, Ticket},
    room::{InLine, Session},
};

impl Engine {
    /// Joins a sale's waiting room: the number that this session has, or the next.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] where there is no such room, or its sale is over; [`Refusal::Busy`] where very many wait.
    pub async fn join(&self, sale_id: SaleId, session: Session) -> Result<i64, Refusal> {
        self.serving()?;
        self.actors.rooms.join(sale_id, session).await
    }

    /// Where a number stands, and how that goes on.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn in_line(&self, ticket: Ticket) -> Result<InLine, Refusal> {
        let lobby = self.actors.rooms.lobby(ticket.sale_id).await?;
        let starts_at = self.context.sales.get(ticket.sale_id).map(|sale| sale.starts_at);
        Ok(InLine { lobby, number: ticket.number, starts_at, clock: self.context.clock.clone() })
    }
}
