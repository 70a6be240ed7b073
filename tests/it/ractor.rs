//! What the engine relies on in ractor. A release that changes one of these must not come in unseen.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::ractor::{
    Actor, ActorCell, ActorProcessingErr, ActorRef, ActorStatus, RpcReplyPort, SupervisionEvent, rpc::CallResult,
};
use tokio::sync::{mpsc, watch};

use crate::support::eventually;

#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    finished: AtomicUsize,
}

enum Msg {
    /// Counted when it begins, and when it ends: after the gate has opened.
    Work(watch::Receiver<bool>),
    Echo(RpcReplyPort<()>),
    Panic,
}

struct Worker(Arc<Counts>);

impl Actor for Worker {
    type Msg = Msg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Work(mut gate) => {
                self.0.begun.fetch_add(1, Ordering::SeqCst);
                gate.wait_for(|open| *open).await.ok();
                self.0.finished.fetch_add(1, Ordering::SeqCst);
            }
            Msg::Echo(reply) => {
                self.0.finished.fetch_add(1, Ordering::SeqCst);
                reply.send(()).ok();
            }
            Msg::Panic => panic!("as asked"),
        }
        Ok(())
    }
}

/// Reports what it hears of its children, and lives on.
struct Above(mpsc::UnboundedSender<String>);

impl Actor for Above {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        self.0.send(event.to_string()).ok();
        Ok(())
    }
}

/// A supervisor as ractor gives it.
struct Plain;

impl Actor for Plain {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

struct Stage {
    counts: Arc<Counts>,
    worker: ActorRef<Msg>,
    gate: watch::Sender<bool>,
}

impl Stage {
    async fn new(above: Option<ActorCell>) -> Self {
        let counts = Arc::new(Counts::default());
        let worker = Worker(Arc::clone(&counts));
        let (worker, _) = match above {
            Some(above) => Actor::spawn_linked(None, worker, (), above).await.expect("it lives"),
            None => Actor::spawn(None, worker, ()).await.expect("it lives"),
        };
        Self { counts, worker, gate: watch::channel(false).0 }
    }

    /// Five messages, the first of which is in hand.
    async fn busy(&self) {
        for _ in 0..5 {
            self.worker.cast(Msg::Work(self.gate.subscribe())).expect("it lives");
        }
        eventually("the first is in hand", async || self.counts.begun.load(Ordering::SeqCst) == 1).await;
    }

    async fn ends(&self) -> (usize, usize) {
        eventually("it ends", async || self.worker.get_status() == ActorStatus::Stopped).await;
        (self.counts.begun.load(Ordering::SeqCst), self.counts.finished.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn kill_drops_what_is_in_hand() {
    let stage = Stage::new(None).await;
    stage.busy().await;
    stage.worker.kill();
    assert_eq!(stage.ends().await, (1, 0));
}

#[tokio::test]
async fn stop_finishes_what_is_in_hand_and_drops_the_queue() {
    let stage = Stage::new(None).await;
    stage.busy().await;
    stage.worker.stop(None);
    stage.gate.send_replace(true);
    assert_eq!(stage.ends().await, (1, 1));
}

#[tokio::test]
async fn drain_finishes_the_queue_and_takes_nothing_more() {
    let stage = Stage::new(None).await;
    stage.busy().await;
    stage.worker.drain().unwrap();
    assert!(stage.worker.cast(Msg::Panic).is_err());
    stage.gate.send_replace(true);
    assert_eq!(stage.ends().await, (5, 5));
}

#[tokio::test]
async fn a_supervisor_that_stops_kills_what_its_children_have_in_hand() {
    let (tell, _hear) = mpsc::unbounded_channel();
    let (above, _) = Actor::spawn(None, Above(tell), ()).await.unwrap();
    let stage = Stage::new(Some(above.get_cell())).await;
    stage.busy().await;
    above.stop(None);
    assert_eq!(stage.ends().await, (1, 0), "so the engine drains leaves first");
}

#[tokio::test]
async fn a_caller_behind_a_panic_hears_so_and_the_supervisor_lives() {
    let (tell, mut hear) = mpsc::unbounded_channel();
    let (above, _) = Actor::spawn(None, Above(tell), ()).await.unwrap();
    let stage = Stage::new(Some(above.get_cell())).await;
    stage.worker.cast(Msg::Panic).unwrap();
    let answer = stage.worker.call(Msg::Echo, Some(Duration::from_secs(10))).await;
    assert!(matches!(answer, Ok(CallResult::SenderError) | Err(_)), "{answer:?}");
    let mut heard = Vec::new();
    while !heard.iter().any(|event: &String| event.contains("as asked")) {
        heard.push(hear.recv().await.expect("the supervisor lives"));
    }
    assert_eq!(above.get_status(), ActorStatus::Running);
    assert!(stage.worker.cast(Msg::Panic).is_err(), "nobody restarts it");
}

#[tokio::test]
async fn a_call_that_timed_out_is_carried_out_all_the_same() {
    let stage = Stage::new(None).await;
    stage.worker.cast(Msg::Work(stage.gate.subscribe())).unwrap();
    let answer = stage.worker.call(Msg::Echo, Some(Duration::from_millis(1))).await.unwrap();
    assert!(matches!(answer, CallResult::Timeout));
    stage.gate.send_replace(true);
    eventually("it was carried out", async || stage.counts.finished.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test]
async fn a_name_is_taken_once_and_free_after_a_crash() {
    let name = || Some("test/only-one".to_owned());
    let worker = || Worker(Arc::default());
    let (first, end) = Actor::spawn(name(), worker(), ()).await.unwrap();
    assert!(Actor::spawn(name(), worker(), ()).await.is_err());
    first.cast(Msg::Panic).unwrap();
    end.await.unwrap();
    Actor::spawn(name(), worker(), ()).await.unwrap();
}

#[tokio::test]
async fn ractors_own_supervisor_ends_with_its_first_child() {
    let (above, _) = Actor::spawn(None, Plain, ()).await.unwrap();
    let stage = Stage::new(Some(above.get_cell())).await;
    stage.worker.cast(Msg::Panic).unwrap();
    eventually("it ends", async || above.get_status() == ActorStatus::Stopped).await;
}

#[tokio::test]
async fn a_message_to_a_dead_actor_comes_back() {
    let stage = Stage::new(None).await;
    stage.worker.kill();
    stage.ends().await;
    let back = stage.worker.cast(Msg::Panic);
    assert!(matches!(back, Err(::ractor::MessagingErr::SendErr(Msg::Panic))), "the directory sends it again");
}
