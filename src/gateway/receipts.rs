//! Receipts as clients read them.

use std::sync::Arc;

use taugate_ledger::engine::BoxFuture;
use taugate_ledger::ids::RequestId;

use crate::front_door::inference::Receipts;
use crate::identity::StoreAway;
use crate::proto::v1;
use crate::report::wire;
use crate::store::sqlite::SqliteStore;

/// Reads receipts from the store.
#[derive(Clone, Debug)]
pub(super) struct StoreReceipts(pub(super) Arc<SqliteStore>);

impl Receipts for StoreReceipts {
    fn receipt<'a>(
        &'a self,
        id: RequestId,
        client: &'a str,
    ) -> BoxFuture<'a, Result<Option<v1::Receipt>, StoreAway>> {
        Box::pin(async move {
            let stored = self.0.receipt(id).await.map_err(|_| StoreAway)?;
            let own = stored.filter(|stored| *stored.receipt.client == *client);
            Ok(own.map(|own| wire::receipt(own.id, &own.receipt, &own.subjects)))
        })
    }
}
