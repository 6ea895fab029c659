//! What the process died of: counted against the module when it starts again, and set aside when it is too often.
//!
//! Invariant: a module pays only for a death that no other module can have caused. An event that ends the process costs
//! its attempts, as one that traps does; a module whose start ends the process is given up before it is started.

use nexum_host_ifaces::{
    event::{Delivery, EventId},
    store::{Attempt, ModuleInfo, Standing, StoreMsg},
};

use super::{Args, Exit, Running, STORE_DEADLINE};
use crate::{
    begun::{Slot, What},
    restart::{self, Decision, Fault},
};

impl Args {
    /// To be called before anything of the module runs.
    pub(super) async fn count_death(&self, begun: &Slot) -> Result<(), Exit> {
        let component = self.plan.manifest.component;
        let deadly = begun.deadly(What::Load(component)).or_else(|| begun.deadly(What::Event(&EventId::Init)));
        if deadly.is_none() && !begun.died_alone(component) {
            return Ok(());
        }
        let name = self.name().clone();
        let info: ModuleInfo =
            self.shared.ports.store().call(STORE_DEADLINE, |reply| StoreMsg::Open { name, reply }).await??;
        begun.counted();
        let mut health = self.health.clone().unwrap_or(info.health);
        if let Some(deaths) = deadly {
            if health.standing == Standing::Running {
                let reason = format!("the process died {deaths} times while this module was started");
                health.last_error = Some(reason.clone());
                health.standing = Standing::Dead { reason };
                return Err(Exit::fault(health, Decision::Dead));
            }
            return Err(Exit::Standing(Box::new(health)));
        }
        if health.standing != Standing::Running {
            return Ok(());
        }
        let message = "the process died while this module, and no other, was at an event or was started".to_owned();
        let fault = Fault { message, backtrace: None, fuel: 0, event: None };
        let policy = &self.plan.manifest.restart;
        // The process is the restart, and whoever started it has waited.
        let decision = restart::decide(&mut health, &fault, policy, (self.shared.jitter)());
        if decision == Decision::Dead {
            return Err(Exit::fault(health, decision));
        }
        let (module, health) = (info.id, Box::new(health));
        let put = |reply| StoreMsg::PutHealth { module, health, reply };
        Ok(self.shared.ports.store().call(STORE_DEADLINE, put).await??)
    }
}

impl Running {
    /// Sets an event aside during which the process died too often.
    pub(super) async fn quarantine_deadly(
        &mut self,
        args: &Args,
        index: usize,
        delivery: Delivery,
        deaths: u32,
    ) -> Result<(), Exit> {
        let event = delivery.id.clone();
        let error = format!("the process died {deaths} times while it ran");
        let attempt = Attempt { event: event.clone(), count: deaths, error, backtrace: None, fuel: 0 };
        self.health.attempts.insert(self.feeds.id(index).clone(), attempt.clone());
        self.quarantine(args, index, delivery, attempt).await?;
        // Until then it must not begin again.
        self.settle(args).await?;
        self.begun.clear(What::Event(&event));
        Ok(())
    }
}
