//! What a person, or a charm by `exec`, does once: install service and checks, set, remove and show identities.
//!
//! Each command makes the same decisions as the service. Nothing here prints.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::decide::{Action, ChangeReason, Desired, Observed, plan_identity};
use super::reconcile::own_uid;
use super::status::{Foreign, too_old};
use crate::config;
use crate::credential::{Credential, Username};
use crate::pebble::{
    Change, Client, IdentityInfo, LABEL, Layer, LayerInputs, Marker, Owner, PebbleError, Plan, SERVICE,
    SERVICE_LABEL, SystemInfo, Verification,
};
use crate::secret::{self, Reading};

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The request to Pebble failed.
    #[error(transparent)]
    Pebble(#[from] PebbleError),
    /// Pebble does not let this user write.
    #[error(
        "cannot write in Pebble as uid {own_uid}; run this as Pebble's own user or root, or add an identity with access admin and local user-id {own_uid}"
    )]
    Unprivileged {
        own_uid: u32,
        #[source]
        source: PebbleError,
    },
    /// Another user than root or the own one serves the socket.
    #[error(
        "cannot trust the socket of Pebble: uid {uid} serves it, which is neither root nor uid {own_uid}; run this as that user"
    )]
    Untrusted { uid: u32, own_uid: u32 },
    /// Pebble is too old.
    #[error("Pebble {}", too_old(.0))]
    TooOld(String),
    /// The identity has no owner marker.
    #[error(
        "cannot take {0}: an identity of that name has no owner marker of metrics-proxy; --adopt-identity takes it over"
    )]
    Unmarked(Username),
    /// The identity has another access or type.
    #[error("cannot take {0}: an identity of that name has other access than metrics; choose another name")]
    OtherAccess(Username),
    /// The service keeps the identity.
    #[error(
        "cannot set {0}: it comes from the mounted secret; change that, or use --adopt-identity to take it over"
    )]
    FromSecret(Username),
    /// There is no such identity.
    #[error("cannot remove {0}: there is no such identity")]
    NotThere(String),
    /// The identity has no owner marker.
    #[error(
        "cannot remove {0}: it has no owner marker of metrics-proxy; --adopt-identity removes it all the same"
    )]
    NotOwned(String),
    /// The identity has another access or type, and no flag removes it.
    #[error(
        "cannot remove {0}: it has other access than metrics, so that another program needs it; remove it with `pebble remove-identities`"
    )]
    NotMetrics(String),
    /// Pebble does not accept what was written.
    #[error("{0} is written, but Pebble does not accept the password")]
    Rejected(Username),
    /// The plan has other checks of the same names.
    #[error("the checks are added, but a later layer of the plan defines checks of the same names: {}; rename those", .0.join(", "))]
    Shadowed(Vec<String>),
}

/// Names the remedy where Pebble denies the request.
fn privileged(error: PebbleError) -> CommandError {
    if error.is_denied() {
        CommandError::Unprivileged {
            own_uid: own_uid(),
            source: error,
        }
    } else {
        error.into()
    }
}

/// Connects to a Pebble that is new enough and served by a user who may see a credential.
async fn connect(client: &Client) -> Result<SystemInfo, CommandError> {
    let info = client.system_info().await?;
    if info.version.is_too_old() {
        return Err(CommandError::TooOld(info.version.to_string()));
    }
    if let Ok(peer) = client.peer().await
        && !peer.is_trusted(own_uid())
    {
        return Err(CommandError::Untrusted {
            uid: peer.uid,
            own_uid: own_uid(),
        });
    }
    Ok(info)
}

/// The secret and the identities, as `identity status` shows them.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Pebble's API socket.
    pub socket: String,
    /// Pebble's version; absent where it does not respond.
    pub pebble_version: Option<String>,
    /// Why nothing more is known.
    pub pebble_error: Option<String>,
    /// Where Pebble listens on this machine.
    pub http_address: Option<String>,
    /// `none`, `absent`, `refused` or `usable`.
    pub secret: &'static str,
    /// Why it is refused.
    pub secret_error: Option<String>,
    /// The secret's username.
    pub username: Option<Username>,
    /// Whether the credential works; absent where there is none or it cannot be found out.
    pub in_force: Option<bool>,
    /// All identities of Pebble apart from owner markers.
    pub identities: Vec<ListedIdentity>,
}

/// One identity.
#[derive(Debug, Serialize)]
pub struct ListedIdentity {
    /// Its name.
    pub name: String,
    /// Its access.
    pub access: String,
    /// Who wrote it; absent where another writer did.
    pub owner: Option<Owner>,
}

impl Status {
    /// Whether all is as the configuration asks.
    pub fn is_good(&self) -> bool {
        self.pebble_error.is_none() && (self.secret == "none" || self.in_force == Some(true))
    }

    /// Reads the secret, notes what it holds, and returns a credential that can be verified.
    fn read_secret(&mut self, path: Option<&Path>) -> Option<Credential> {
        match secret::read(path?) {
            Reading::Absent => self.secret = "absent",
            Reading::Refused(refusal) => {
                self.secret = "refused";
                self.secret_error = Some(refusal.to_string());
            }
            Reading::Usable(credential) => {
                self.secret = "usable";
                self.username = Some(credential.username.clone());
                return Some(credential);
            }
        }
        None
    }
}

/// Reads the identities and the secret, and verifies the credential; changes nothing. Where Pebble has no HTTP address,
/// the verification makes it log a security line.
pub async fn status(settings: &config::Pebble) -> Status {
    let client = Client::new(&settings.socket);
    let mut status = Status {
        socket: settings.socket.display().to_string(),
        pebble_version: None,
        pebble_error: None,
        http_address: None,
        secret: "none",
        secret_error: None,
        username: None,
        in_force: None,
        identities: Vec::new(),
    };
    let credential = status.read_secret(settings.secret.as_deref());
    let seen = async {
        let info = connect(&client).await?;
        let identities = client.identities().await?;
        Ok::<_, CommandError>((info, identities))
    };
    let (info, identities) = match seen.await {
        Ok(seen) => seen,
        Err(error) => {
            status.pebble_error = Some(crate::error::chain(&error));
            return status;
        }
    };
    status.pebble_version = Some(info.version.to_string());
    status.http_address = info.http_address().map(|address| address.to_string());
    if let Some(credential) = &credential {
        status.in_force = match verify(&client, &info, credential).await {
            Verification::Works => Some(true),
            Verification::Fails => Some(false),
            Verification::Unknown => None,
        };
    }
    status.identities = identities
        .iter()
        .filter(|(name, _)| Marker::parse(name).is_none())
        .map(|(name, info)| ListedIdentity {
            name: name.clone(),
            access: info.access.clone(),
            owner: owner(&identities, name),
        })
        .collect();
    status
}

/// The owner of an identity by its markers; a secret comes before the command.
fn owner(identities: &BTreeMap<String, IdentityInfo>, name: &str) -> Option<Owner> {
    identities
        .keys()
        .filter_map(|marker| Marker::parse(marker))
        .filter(|marker| marker.username.as_str() == name)
        .map(|marker| marker.owner)
        .min()
}

async fn verify(client: &Client, info: &SystemInfo, credential: &Credential) -> Verification {
    if let Some(address) = info.http_address() {
        let result = client.verify_over_http(address, credential).await;
        if result != Verification::Unknown {
            return result;
        }
    }
    client.verify_over_socket(credential).await
}

/// What a command did to identities.
#[derive(Debug, Serialize)]
pub struct Done {
    /// `created`, `rotated`, `adopted`, `tidied`, `removed`, or `unchanged`.
    pub result: &'static str,
    /// The names of those identities.
    pub usernames: Vec<String>,
}

/// Sets an identity, unless it works already. It stays until it is removed by command: the service removes only what
/// came from its secret.
pub async fn set(
    settings: &config::Pebble,
    credential: &Credential,
    adopt: bool,
) -> Result<Done, CommandError> {
    let client = Client::new(&settings.socket);
    let info = connect(&client).await?;
    let username = &credential.username;
    let desired = Desired::Present {
        username: username.clone(),
        owner: Owner::Command,
        adopt,
    };
    let mut verification = None;
    let mut done = Done {
        result: "unchanged",
        usernames: vec![username.to_string()],
    };
    loop {
        let identities = client.identities().await.map_err(privileged)?;
        if owner(&identities, username.as_str()).is_some_and(Owner::is_secret) && !adopt {
            return Err(CommandError::FromSecret(username.clone()));
        }
        let observed = Observed {
            identities: &identities,
            verification,
            stopped_proxy: None,
        };
        match plan_identity(&desired, observed) {
            Action::Done => return Ok(done),
            Action::Refuse(Foreign::Unmarked) => return Err(CommandError::Unmarked(username.clone())),
            Action::Refuse(Foreign::OtherAccess) => return Err(CommandError::OtherAccess(username.clone())),
            Action::Refuse(Foreign::OtherProxy(_)) => return Err(CommandError::FromSecret(username.clone())),
            Action::Verify => verification = Some(verify(&client, &info, credential).await),
            Action::Change(change, reason) => {
                let password = change.write.is_some().then_some(&credential.password);
                client
                    .change_identities(&info.version, &change, password)
                    .await
                    .map_err(privileged)?;
                verification = Some(verify(&client, &info, credential).await);
                if verification == Some(Verification::Fails) {
                    return Err(CommandError::Rejected(username.clone()));
                }
                done.result = match reason {
                    // An identity that the secret had named before loses only that marker.
                    ChangeReason::Renamed => ChangeReason::Adopted.as_str(),
                    reason => reason.as_str(),
                };
            }
        }
    }
}

/// Removes the identity of this name, or every identity with an owner marker. The running proxy writes the one of its
/// mounted secret again. Only identities with metrics access are ever removed.
pub async fn remove(
    settings: &config::Pebble,
    name: Option<&str>,
    adopt: bool,
) -> Result<Done, CommandError> {
    let client = Client::new(&settings.socket);
    let info = connect(&client).await?;
    let identities = client.identities().await.map_err(privileged)?;
    let removal = match name {
        Some(name) => removal_of(&identities, name, adopt)?,
        None => removal_of_owned(&identities, |_| true),
    };
    let names = [removal.markers, removal.usernames.clone()].concat();
    if names.is_empty() {
        return Ok(Done {
            result: "unchanged",
            usernames: Vec::new(),
        });
    }
    let change = Change {
        remove: names,
        ..Change::default()
    };
    client
        .change_identities(&info.version, &change, None)
        .await
        .map_err(privileged)?;
    Ok(Done {
        result: "removed",
        usernames: removal.usernames,
    })
}

/// What the command `identity remove` removes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Removal {
    usernames: Vec<String>,
    markers: Vec<String>,
}

/// One identity by its name. Without an owner marker it is removed only with `adopt`, and one that is not of the kind
/// that the proxy writes never: Juju's `charm` is an admin, and the charm would lose its access.
fn removal_of(
    identities: &BTreeMap<String, IdentityInfo>,
    name: &str,
    adopt: bool,
) -> Result<Removal, CommandError> {
    let identity = match identities.get(name) {
        Some(identity) if Marker::parse(name).is_none() => identity,
        _ => return Err(CommandError::NotThere(name.to_owned())),
    };
    let mut removal = removal_of_owned(identities, |username| username == name);
    if removal.markers.is_empty() {
        if !adopt {
            return Err(CommandError::NotOwned(name.to_owned()));
        }
        if !identity.is_metrics_only() {
            return Err(CommandError::NotMetrics(name.to_owned()));
        }
        removal.usernames.push(name.to_owned());
    }
    Ok(removal)
}

/// The chosen identities with an owner marker. One that another writer gave other access loses only its marker.
fn removal_of_owned(
    identities: &BTreeMap<String, IdentityInfo>,
    is_chosen: impl Fn(&str) -> bool,
) -> Removal {
    let mut removal = Removal::default();
    for (marker_name, marker) in identities
        .keys()
        .filter_map(|name| Some((name, Marker::parse(name)?)))
    {
        let username = marker.username.to_string();
        if !is_chosen(&username) {
            continue;
        }
        removal.markers.push(marker_name.clone());
        let is_unchanged = identities
            .get(&username)
            .is_some_and(IdentityInfo::is_metrics_only);
        if is_unchanged && !removal.usernames.contains(&username) {
            removal.usernames.push(username);
        }
    }
    removal
}

/// What `bootstrap` does, or would do.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Task {
    /// Adds a layer.
    AddLayer {
        /// Its label.
        label: &'static str,
        /// Its YAML.
        layer: String,
    },
    /// Leaves the service as the plan has it.
    KeepService {
        /// Its name.
        service: &'static str,
    },
    /// Starts a service.
    StartService {
        /// Its name.
        service: &'static str,
    },
}

/// What `bootstrap` found and did.
#[derive(Debug, Serialize)]
pub struct Installed {
    /// The tasks, in order; empty where nothing was to do.
    pub tasks: Vec<Task>,
    /// Whether they were done, and not only shown.
    pub done: bool,
    /// Why Pebble was not looked at, where the tasks were only shown.
    pub pebble_error: Option<String>,
}

/// Installs service and checks where the plan lacks them, and starts the service where it does not run. A second run
/// changes nothing. With `dry_run` it only shows the tasks; without a Pebble it shows all of them.
///
/// A service of the name that is in the plan already belongs to the charm or the rock and stays as it is. No other
/// service is replanned, started or stopped.
pub async fn install(
    settings: &config::Pebble,
    listen: &config::Listen,
    dry_run: bool,
) -> Result<Installed, CommandError> {
    let layers = Layers::new(settings, listen);
    let client = Client::new(&settings.socket);
    if let Ok(info) = client.system_info().await
        && info.version.is_too_old()
    {
        return Err(CommandError::TooOld(info.version.to_string()));
    }
    let plan = match client.plan().await {
        Ok(plan) => plan,
        Err(error) if dry_run => {
            return Ok(Installed {
                tasks: vec![
                    add_layer(SERVICE_LABEL, &layers.service),
                    add_layer(LABEL, &layers.checks),
                    Task::StartService { service: SERVICE },
                ],
                done: false,
                pebble_error: Some(crate::error::chain(&error)),
            });
        }
        Err(error) => return Err(privileged(error)),
    };
    let tasks = tasks(&client, &layers, &plan).await?;
    if !dry_run {
        perform(&client, &layers, &tasks).await?;
    }
    Ok(Installed {
        tasks,
        done: !dry_run,
        pebble_error: None,
    })
}

/// The layers that this configuration asks for.
struct Layers {
    service: Layer,
    checks: Layer,
}

impl Layers {
    fn new(settings: &config::Pebble, listen: &config::Listen) -> Self {
        let inputs = LayerInputs {
            address: listen.address,
            port: listen.port,
            level: settings.check_level,
            secret: settings.secret.as_deref().map(Path::new),
        };
        Self {
            service: Layer::service(inputs),
            checks: Layer::checks(inputs),
        }
    }
}

async fn tasks(client: &Client, layers: &Layers, plan: &Plan) -> Result<Vec<Task>, CommandError> {
    let has_service = plan.services.contains_key(SERVICE);
    let mut tasks = vec![if has_service {
        Task::KeepService { service: SERVICE }
    } else {
        add_layer(SERVICE_LABEL, &layers.service)
    }];
    if !plan.contains(&layers.checks.effective_checks()) {
        tasks.push(add_layer(LABEL, &layers.checks));
    }
    let is_active = has_service
        && client
            .services()
            .await?
            .iter()
            .any(|info| info.name == SERVICE && info.current == "active");
    if !is_active {
        tasks.push(Task::StartService { service: SERVICE });
    }
    Ok(tasks)
}

async fn perform(client: &Client, layers: &Layers, tasks: &[Task]) -> Result<(), CommandError> {
    for task in tasks {
        match task {
            Task::KeepService { .. } => {}
            Task::AddLayer { label, .. } => {
                let layer = if *label == LABEL {
                    &layers.checks
                } else {
                    &layers.service
                };
                client.add_layer(label, layer).await.map_err(privileged)?;
            }
            Task::StartService { service } => {
                client.start_service(service).await.map_err(privileged)?;
            }
        }
    }
    let plan = client.plan().await.map_err(privileged)?;
    let shadowed: Vec<String> = layers
        .checks
        .effective_checks()
        .into_iter()
        .filter(|(name, check)| plan.checks.get(name) != Some(check))
        .map(|(name, _)| name)
        .collect();
    if shadowed.is_empty() {
        Ok(())
    } else {
        Err(CommandError::Shadowed(shadowed))
    }
}

fn add_layer(label: &'static str, layer: &Layer) -> Task {
    Task::AddLayer {
        label,
        layer: layer.to_yaml(),
    }
}

#[cfg(test)]
mod tests;
