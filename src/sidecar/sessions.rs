//! Sessions of gateways with this miner, and who may open one.
//!
//! Everything is held in memory: after a restart gateways open new ones. An opening that is
//! repeated to a miner which forgot its nonce gives a session to whoever asked first, as
//! nobody else has the key.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taugate_ledger::engine::BoxFuture;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::clock::SharedClock;
use crate::identity::StoreAway;
use crate::identity::call::{CallError, CallVerifier, Registered};
use crate::identity::hotkey::{Hotkey, Keypair};
use crate::identity::nonce::{Nonce, NonceStore};
use crate::identity::session::{self, Claim, LIFE_MAX, SessionId, SessionKey, Window};
use crate::proto::v1;

/// Sessions of one validator at once: several gateways, each with a connection a core. One
/// more takes the place of its oldest.
const SESSIONS_MAX: usize = 512;

/// Validators with sessions at once; more than a network has.
const VALIDATORS_MAX: usize = 256;

/// Openings of one validator that are remembered at once; each for some seconds.
const NONCES_MAX: usize = 512;

/// Who may call a miner.
#[derive(Debug)]
pub struct Validators(Mutex<Known>);

#[derive(Debug)]
enum Known {
    /// Whoever reaches it, also without a session.
    Anyone,
    /// These.
    Listed(BTreeSet<Hotkey>),
    /// Those of the gateways that it declares to, as these name themselves.
    Learned(BTreeMap<String, Hotkey>),
}

/// The open sessions of a miner.
#[derive(Debug)]
pub struct Sessions {
    keypair: Arc<Keypair>,
    clock: SharedClock,
    verifier: CallVerifier,
    validators: Arc<Validators>,
    life: Duration,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<SessionId, Arc<Session>>,
    /// The oldest first.
    by_validator: BTreeMap<Hotkey, VecDeque<SessionId>>,
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    validator: Hotkey,
    key: SessionKey,
    ends: Instant,
    seen: Mutex<Window>,
}

/// Nonces of openings, in memory.
#[derive(Debug)]
struct Nonces {
    clock: SharedClock,
    /// With the time at which each may be forgotten, the first first.
    spent: Mutex<BTreeMap<Hotkey, VecDeque<(u64, Nonce)>>>,
}

// === impl Validators ===

impl Validators {
    /// Whoever reaches the miner may call it, also without a session. For development.
    #[must_use]
    pub fn anyone() -> Self {
        Self(Mutex::new(Known::Anyone))
    }

    /// These may.
    #[must_use]
    pub fn listed(hotkeys: BTreeSet<Hotkey>) -> Self {
        Self(Mutex::new(Known::Listed(hotkeys)))
    }

    /// Those may whose gateways the miner declares to.
    #[must_use]
    pub fn learned() -> Self {
        Self(Mutex::new(Known::Learned(BTreeMap::new())))
    }

    /// Hears whose gateway the one of that name is.
    pub fn learn(&self, gateway: &str, hotkey: &str) {
        let Ok(hotkey) = hotkey.parse::<Hotkey>() else {
            return;
        };
        let mut known = self.0.lock();
        if let Known::Learned(learned) = &mut *known
            && learned.insert(gateway.to_owned(), hotkey) != Some(hotkey)
        {
            drop(known);
            tracing::info!(gateway, validator = %hotkey, "this validator may call");
        }
    }

    fn is_anyone(&self) -> bool {
        matches!(*self.0.lock(), Known::Anyone)
    }
}

impl Registered for Validators {
    fn is_registered(&self, hotkey: &Hotkey) -> bool {
        match &*self.0.lock() {
            Known::Anyone => true,
            Known::Listed(listed) => listed.contains(hotkey),
            Known::Learned(learned) => learned.values().any(|known| known == hotkey),
        }
    }
}

// === impl Sessions ===

impl Sessions {
    /// No sessions yet, with a miner of that key.
    #[must_use]
    pub fn new(keypair: Arc<Keypair>, clock: SharedClock, validators: Arc<Validators>) -> Self {
        let nonces = Nonces {
            clock: Arc::clone(&clock),
            spent: Mutex::default(),
        };
        let verifier = CallVerifier::new(
            keypair.hotkey(),
            Arc::clone(&clock),
            Arc::new(nonces),
            Arc::clone(&validators) as Arc<dyn Registered>,
        );
        Self {
            keypair,
            clock,
            verifier,
            validators,
            life: LIFE_MAX,
            table: Mutex::default(),
        }
    }

    /// Sessions that last so long, at most [`LIFE_MAX`].
    #[must_use]
    pub fn lasting(mut self, life: Duration) -> Self {
        self.life = life.min(LIFE_MAX);
        self
    }

    /// Who may call.
    #[must_use]
    pub const fn validators(&self) -> &Arc<Validators> {
        &self.validators
    }

    /// How many are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.lock().open.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all of them; whoever has one opens another.
    pub fn forget(&self) {
        *self.table.lock() = Table::default();
    }

    /// Opens one.
    ///
    /// # Errors
    /// UNAUTHENTICATED in one text whatever is wrong with the question, PERMISSION_DENIED for
    /// whoever proved a hotkey that may not call, RESOURCE_EXHAUSTED when there are too many.
    pub async fn open(
        &self,
        request: &v1::OpenSessionRequest,
    ) -> Result<v1::OpenSessionResponse, Status> {
        let validator = self.verifier.verify_opening(request).await;
        let validator = validator.map_err(|error| {
            tracing::info!(%error, "a session was refused");
            match error {
                CallError::NotRegistered => {
                    Status::permission_denied("the validator is not registered here")
                }
                CallError::Away => Status::resource_exhausted("too many sessions were opened"),
                CallError::Metadata(_)
                | CallError::Time
                | CallError::Signature
                | CallError::Replayed => unauthenticated(),
            }
        })?;
        let life_ms = u64::try_from(self.life.as_millis()).unwrap_or(u64::MAX);
        let expires_ms = self.clock.unix_ms().saturating_add(life_ms);
        let answered = session::answer(&self.keypair, request, expires_ms);
        let (id, key, response) = answered.map_err(|_| unauthenticated())?;
        let session = Session {
            validator,
            key,
            ends: Instant::now() + self.life,
            seen: Mutex::default(),
        };
        if !self.table.lock().insert(id, session, Instant::now()) {
            return Err(Status::resource_exhausted("too many validators"));
        }
        tracing::debug!(%validator, "a session was opened");
        Ok(response)
    }

    /// The session that a request claims to be of; `None`: it claims none and needs none.
    ///
    /// # Errors
    /// When it needs one, or there is no such session, or its number was used.
    pub(super) fn claimed(
        &self,
        metadata: &MetadataMap,
    ) -> Result<Option<(Arc<Session>, Claim)>, Status> {
        let claim = Claim::read(metadata).map_err(|_| unauthenticated())?;
        let Some(claim) = claim else {
            return if self.validators.is_anyone() {
                Ok(None)
            } else {
                Err(unauthenticated())
            };
        };
        let session = self.table.lock().open.get(&claim.session).cloned();
        let session = session.filter(|session| {
            session.ends > Instant::now()
                && session.seen.lock().is_fresh(claim.counter)
                // Whoever is struck off the list has no more business here.
                && self.validators.is_registered(&session.validator)
        });
        let session = session.ok_or_else(unauthenticated)?;
        Ok(Some((session, claim)))
    }
}

/// One text for everything that is wrong.
pub(super) fn unauthenticated() -> Status {
    Status::unauthenticated("the call is not of a session of this miner")
}

// === impl Session ===

impl Session {
    /// Takes a request's number, once its hash was found right.
    pub(super) fn take(&self, claim: &Claim, path: &str, message: &[u8]) -> Result<(), Status> {
        let good = self.key.holds(claim, path, message) && self.seen.lock().take(claim.counter);
        if good { Ok(()) } else { Err(unauthenticated()) }
    }
}

// === impl Table ===

impl Table {
    /// Whether there was room.
    fn insert(&mut self, id: SessionId, session: Session, now: Instant) -> bool {
        let validator = session.validator;
        if !self.by_validator.contains_key(&validator) && self.by_validator.len() >= VALIDATORS_MAX
        {
            let all: Vec<Hotkey> = self.by_validator.keys().copied().collect();
            for validator in all {
                self.sweep(validator, now);
            }
            if self.by_validator.len() >= VALIDATORS_MAX {
                return false;
            }
        }
        self.sweep(validator, now);
        let ids = self.by_validator.entry(validator).or_default();
        if ids.len() >= SESSIONS_MAX
            && let Some(oldest) = ids.pop_front()
        {
            self.open.remove(&oldest);
        }
        ids.push_back(id);
        self.open.insert(id, Arc::new(session));
        true
    }

    /// Drops what ended: the oldest end first, as all last equally long.
    fn sweep(&mut self, validator: Hotkey, now: Instant) {
        let Some(ids) = self.by_validator.get_mut(&validator) else {
            return;
        };
        while let Some(oldest) = ids.front() {
            if self
                .open
                .get(oldest)
                .is_some_and(|session| session.ends > now)
            {
                return;
            }
            self.open.remove(oldest);
            ids.pop_front();
        }
        self.by_validator.remove(&validator);
    }
}

// === impl Nonces ===

impl NonceStore for Nonces {
    fn spend_nonce(
        &self,
        hotkey: Hotkey,
        nonce: Nonce,
        keep_until_ms: u64,
    ) -> BoxFuture<'_, Result<bool, StoreAway>> {
        let now_ms = self.clock.unix_ms();
        let mut spent = self.spent.lock();
        spent.retain(|_, nonces| {
            while nonces.front().is_some_and(|(until, _)| *until <= now_ms) {
                nonces.pop_front();
            }
            !nonces.is_empty()
        });
        let room = spent.contains_key(&hotkey) || spent.len() < VALIDATORS_MAX;
        let nonces = spent.entry(hotkey).or_default();
        let answer = if nonces.iter().any(|(_, known)| *known == nonce) {
            Ok(false)
        } else if room && nonces.len() < NONCES_MAX {
            nonces.push_back((keep_until_ms, nonce));
            Ok(true)
        } else {
            Err(StoreAway)
        };
        drop(spent);
        Box::pin(std::future::ready(answer))
    }
}
