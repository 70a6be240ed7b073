//! Live stock: what is left of a SKU, written out once a change and shared by everybody who listens.
//!
//! A SKU that is listened to has a board. Its keeper hears of every commit, puts the newest on the board, and rests: ten
//! changes a second at the most, and fewer the more listeners there are, since each of them costs a write. A listener that
//! is slow misses what is old and nothing else: the board keeps no past.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dashmap::DashMap;
use serde::Serialize;
use souk_actors::{
    Engine, Listening,
    domain::{Counters, Refusal, SkuId},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// No board changes more often than this …
const PACE: Duration = Duration::from_millis(100);
/// … nor so often that its listeners together are written to more than twenty thousand times a second.
const EACH: Duration = Duration::from_micros(50);

/// What is left of a SKU, as committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Left {
    #[schema(value_type = String)]
    sku_id: SkuId,
    /// Units that can be sold now.
    available: i64,
    /// Whether there are none.
    sold_out: bool,
    /// Units that unpaid orders hold: they come back where their holds lapse.
    may_return: i64,
    /// Grows with every change: of two answers, the greater is the newer.
    version: i64,
}

impl Left {
    /// As these counters say.
    #[must_use]
    pub fn of(sku_id: SkuId, counters: Counters) -> Self {
        let available = counters.available();
        Self { sku_id, available, sold_out: available <= 0, may_return: counters.unpaid, version: counters.version }
    }

    /// As a server-sent event.
    fn event(&self) -> Bytes {
        let data = serde_json::to_string(self).unwrap_or_default();
        format!("event: stock\nid: {}\ndata: {data}\n\n", self.version).into()
    }
}

type Board = watch::Sender<Bytes>;

/// The boards of one shop, and places for so many listeners at once, to stock and to anything else that is streamed.
pub struct Live {
    boards: Arc<DashMap<SkuId, Arc<Board>>>,
    places: Arc<Semaphore>,
    /// The shop is stopping: whoever listens is sent home.
    stopping: watch::Receiver<bool>,
}

impl Live {
    /// No board yet.
    #[must_use]
    pub fn new(places: usize, stopping: watch::Receiver<bool>) -> Self {
        Self { boards: Arc::default(), places: Arc::new(Semaphore::new(places)), stopping }
    }

    /// A listener's place, to be kept as long as it listens.
    ///
    /// # Errors
    /// [`Refusal::Busy`] where all are taken.
    pub fn place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::Busy)
    }

    /// Resolves when the shop stops.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.stopping.clone();
        async move {
            stopping.wait_for(|stopping| *stopping).await.ok();
        }
    }

    /// What is on a SKU's board, and whatever comes to be; it ends when the shop stops.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn listen(&self, engine: &Engine, sku_id: SkuId) -> Result<watch::Receiver<Bytes>, Refusal> {
        if let Some(board) = self.boards.get(&sku_id) {
            return Ok(board.subscribe());
        }
        let mut stock = engine.listen(sku_id).await?;
        let first = Left::of(sku_id, stock.next().await).event();
        // another listener may have put one up meanwhile
        Ok(self.boards.entry(sku_id).or_insert_with(|| self.put_up(sku_id, stock, first)).subscribe())
    }

    fn put_up(&self, sku_id: SkuId, stock: Listening, first: Bytes) -> Arc<Board> {
        let board = Arc::new(Board::new(first));
        tokio::spawn(keep(sku_id, Arc::clone(&board), stock, Arc::clone(&self.boards), self.stopping()));
        board
    }
}

/// Keeps a board until nobody looks at it any more, or the shop stops.
async fn keep(
    sku_id: SkuId,
    board: Arc<Board>,
    mut stock: Listening,
    boards: Arc<DashMap<SkuId, Arc<Board>>>,
    stopping: impl Future<Output = ()>,
) {
    let showing = async {
        loop {
            let counters = stock.next().await;
            board.send_replace(Left::of(sku_id, counters).event());
            tokio::time::sleep(PACE.max(EACH * u32::try_from(board.receiver_count()).unwrap_or(u32::MAX))).await;
        }
    };
    let deserted = async {
        loop {
            board.closed().await;
            // somebody may have come in just now: then the board stays
            if boards.remove_if(&sku_id, |_, kept| kept.receiver_count() == 0).is_some() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = showing => {}
        () = deserted => {}
        () = stopping => drop(boards.remove(&sku_id)),
    }
}
