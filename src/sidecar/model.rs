//! What a sidecar needs of a model, whatever serves it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use taugate_ledger::engine::BoxFuture;

use crate::proto::v1;
use crate::task::TaskId;

/// A model's answer as it comes. Dropping it stops the model.
pub type Events = BoxStream<'static, Result<ModelEvent, ModelError>>;

/// Something that continues conversations.
pub trait Model: Send + Sync + std::fmt::Debug {
    /// Begins an answer: deltas, then one `End`. After an error or `End` comes nothing more.
    fn chat(&self, payload: v1::ChatPayload) -> Events;

    /// Whether it could answer now. One that cannot tell says yes.
    fn is_present(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }
}

/// The models by the task that each does.
pub type Models = BTreeMap<TaskId, Arc<dyn Model>>;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent {
    /// More of it.
    Delta(v1::Delta),
    /// All was delivered. Once, and last.
    End {
        /// How each choice ended, by choice.
        choices: Vec<v1::ChoiceEnd>,
        /// The model's own counts.
        claimed: v1::ClaimedTokens,
    },
}

/// Why there is no answer, or no more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// It has too many requests; before the first delta only.
    #[error("the model is busy")]
    Busy,
    /// It does not take this request, nor would another of its kind; before the first delta
    /// only.
    #[error("the model refuses the request")]
    Refused,
    /// It was not reached, or cannot answer now.
    #[error("the model is away")]
    Away,
    /// It ended in the middle, or said what cannot be read.
    #[error("the model broke off")]
    Broken,
}
