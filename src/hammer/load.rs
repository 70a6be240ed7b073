//! Many buyers at once: each has a place, a connection or two of its own, and takes one turn after another.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet, time::sleep_until};

use super::schedule::{Schedule, Turn};

/// Somebody who comes again and again, each time as another buyer.
pub trait Buyer: Send + 'static {
    /// One visit, whatever comes of it. Latencies count from the turn's `due`.
    fn visit(&mut self, turn: Turn) -> impl Future<Output = ()> + Send;
}

/// Lets buyers in by the schedule until it is over or `stop` becomes true, and waits for those who are inside; how long it
/// took.
///
/// # Panics
/// Where a buyer panics.
pub async fn drive<B: Buyer>(schedule: Arc<Schedule>, buyers: Vec<B>, stop: watch::Receiver<bool>) -> Duration {
    let began = Instant::now();
    let mut places = JoinSet::new();
    for buyer in buyers {
        places.spawn(serve(buyer, Arc::clone(&schedule), stop.clone()));
    }
    while let Some(ended) = places.join_next().await {
        ended.expect("a buyer does not panic");
    }
    began.elapsed()
}

async fn serve(mut buyer: impl Buyer, schedule: Arc<Schedule>, mut stop: watch::Receiver<bool>) {
    while let Some(turn) = schedule.next() {
        // the timer is good for a millisecond, which counts as the buyer's latency: never too little
        if turn.due > Instant::now() {
            tokio::select! {
                () = sleep_until(turn.due.into()) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
        if *stop.borrow() {
            return;
        }
        buyer.visit(turn).await;
    }
}
