//! One pass over Pebble's plan: are the checks in it, and do they ask this proxy?

use super::decide::{LayerAction, plan_layer};
use super::reconcile::{Privilege, Reconciler};
use super::status::LayerStatus;
use crate::pebble::{LABEL, PebbleError, Plan, responds_on_loopback};

impl Reconciler<'_> {
    pub(super) async fn reconcile_layer(&mut self) -> Result<(), PebbleError> {
        if self.privilege != Privilege::Admin {
            self.reporter.set_layer(&LayerStatus::Unprivileged);
            return Ok(());
        }
        let plan = self.client.plan().await;
        let Some(plan) = self.permitted(plan)? else {
            return Ok(());
        };
        let overruled = self.overruled.as_ref();
        let mut action = plan_layer(&self.checks, &plan, overruled, self.was_layer_present);
        if let LayerAction::OtherProxy(port) = action
            && !responds_on_loopback(port, "/healthz").await
        {
            action = plan_layer(&self.checks, &plan, overruled, false);
        }
        if action == LayerAction::Post {
            let Some(plan) = self.post_layer().await? else {
                return Ok(());
            };
            self.overruled = (!plan.contains(&self.checks)).then(|| plan.checks_named_as(&self.checks));
            action = plan_layer(&self.checks, &plan, self.overruled.as_ref(), false);
        }
        self.was_layer_present |= action == LayerAction::Done;
        self.reporter.set_layer(&match action {
            LayerAction::Shadowed(names) => LayerStatus::Shadowed(names),
            LayerAction::OtherProxy(port) => LayerStatus::OfAnotherProxy(port),
            LayerAction::Done | LayerAction::Post => LayerStatus::Present,
        });
        Ok(())
    }

    /// Posts the layer and returns the plan after it; `None` where Pebble refused it, which is reported.
    async fn post_layer(&mut self) -> Result<Option<Plan>, PebbleError> {
        let posted = self.client.add_layer(LABEL, &self.layer).await;
        if let Err(error @ PebbleError::Refused { .. }) = &posted
            && !error.is_denied()
        {
            self.reporter.metrics().count_error(error.reason());
            self.reporter.set_layer(&LayerStatus::Refused(error.to_string()));
            return Ok(None);
        }
        if self.permitted(posted)?.is_none() {
            return Ok(None);
        }
        self.reporter.metrics().count_layer_post();
        tracing::info!(label = LABEL, "Added the checks to Pebble's plan");
        self.client.plan().await.map(Some)
    }
}
