//! The tree: `souk` at the root, a supervisor for each kind of actor, the actors below.
//!
//! ractor restarts nothing, and its default supervisor stops at the first child that ends. These never stop: they tell
//! their directory, which decides when the next message may start the actor again.

use std::sync::Arc;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::{
    directory::{Directory, Kind},
    domain::Refusal,
};

/// The root. It has nothing to do but to be above the others.
struct Root;

impl Actor for Root {
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
        if let SupervisionEvent::ActorFailed(cell, error) = event {
            tracing::error!(actor = ?cell.get_name(), %error, "a supervisor crashed; the process ends");
            std::process::abort();
        }
        Ok(())
    }
}

/// Above the actors of one directory.
struct Supervisor<K: Kind>(Arc<Directory<K>>);

impl<K: Kind> Actor for Supervisor<K> {
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
        match event {
            SupervisionEvent::ActorTerminated(cell, _, _) => self.0.ended(cell.get_id(), None),
            SupervisionEvent::ActorFailed(cell, error) => self.0.ended(cell.get_id(), Some(error.to_string())),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

/// The root of one engine's tree, and the supervisors below it in the order in which they end: ractor's own list of
/// children has none.
pub(crate) struct Tree {
    root: ActorRef<()>,
    supervisors: Vec<ActorCell>,
}

impl Tree {
    /// Plants it.
    ///
    /// # Errors
    /// [`Refusal::Fault`] where the runtime is shutting down.
    pub(crate) async fn plant() -> Result<Self, Refusal> {
        let (root, _) = Actor::spawn(None, Root, ()).await.map_err(fault)?;
        Ok(Self { root, supervisors: Vec::new() })
    }

    /// Puts a directory's supervisor below the root, to end after those that are there.
    ///
    /// # Errors
    /// As [`Tree::plant`].
    pub(crate) async fn supervise<K: Kind>(&mut self, directory: &Arc<Directory<K>>) -> Result<(), Refusal> {
        let supervisor = Supervisor(Arc::clone(directory));
        let (actor, _) = Actor::spawn_linked(None, supervisor, (), self.root.get_cell()).await.map_err(fault)?;
        directory.supervised_by(actor.get_cell());
        self.supervisors.push(actor.get_cell());
        Ok(())
    }

    /// Ends the tree, leaves first: what is in a mailbox is handled, what is in hand is finished.
    pub(crate) async fn fell(&self) {
        let patience = Some(ractor::concurrency::Duration::from_secs(10));
        for supervisor in &self.supervisors {
            drain(supervisor, patience).await;
            supervisor.stop(None);
        }
        self.root.stop(None);
    }
}

async fn drain(supervisor: &ActorCell, patience: Option<ractor::concurrency::Duration>) {
    let leaves = supervisor.get_children();
    futures::future::join_all(leaves.iter().map(|leaf| leaf.drain_and_wait(patience))).await;
}

fn fault(error: ractor::SpawnErr) -> Refusal {
    tracing::error!(%error, "an actor cannot be spawned");
    Refusal::Fault
}
