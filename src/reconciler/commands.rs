//! What a person, or a charm through exec, does by hand: install service and checks, set, remove and look at identities.
//!
//! Each is the same decision as the service's own, made once. Nothing here prints.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::decide::{Foreign, Step, Wanted, Why, decide_identity};
use crate::config;
use crate::credential::{Credential, Username};
use crate::pebble::{
    Change, Client, IdentityInfo, Inputs, LABEL, Layer, Marker, Ownership, PebbleError, Proof, SERVICE,
    SERVICE_LABEL, SystemInfo,
};
use crate::secret::{self, Reading};

/// Why something by hand was not done.
#[derive(Debug, thiserror::Error)]
pub enum ByHandError {
    /// Pebble did not do it.
    #[error(transparent)]
    Pebble(#[from] PebbleError),
    /// We may not write.
    #[error(
        "cannot write in Pebble as uid {own_uid}; run this as Pebble's own user or root, or add an identity with access admin and local user-id {own_uid}"
    )]
    Unprivileged {
        /// Whom Pebble saw.
        own_uid: u32,
        /// Pebble's words.
        #[source]
        source: PebbleError,
    },
    /// Too old.
    #[error("Pebble {0} is older than 1.19, the oldest that this works with")]
    Old(String),
    /// Somebody else's identity.
    #[error(
        "cannot take {0}: an identity of that name carries no marker of ours; --adopt-identity takes it over"
    )]
    Unmarked(Username),
    /// Somebody else's identity, with other access.
    #[error("cannot take {0}: an identity of that name has other access than metrics; choose another name")]
    OtherAccess(Username),
    /// Kept by the service.
    #[error(
        "cannot set {0}: it comes from the mounted secret; change that, or use --adopt-identity to take it over"
    )]
    FromSecret(Username),
    /// Not there.
    #[error("cannot remove {0}: there is no such identity")]
    NotThere(String),
    /// Not ours.
    #[error("cannot remove {0}: it carries no marker of ours; --adopt-identity removes it all the same")]
    NotOurs(String),
    /// Written, but it does not work.
    #[error("{0} is written, but Pebble does not accept the password")]
    Rejected(Username),
    /// Our checks do not count.
    #[error("the checks are added, but a later layer of the plan defines checks of the same names: {}", .0.join(", "))]
    Shadowed(Vec<String>),
}

/// Names the remedy where Pebble refuses us.
fn privileged(error: PebbleError) -> ByHandError {
    if error.is_denied() {
        ByHandError::Unprivileged {
            own_uid: rustix::process::geteuid().as_raw(),
            source: error,
        }
    } else {
        error.into()
    }
}

/// What there is to see of identities.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Pebble's API socket.
    pub socket: String,
    /// Pebble's version; absent where it does not answer.
    pub pebble_version: Option<String>,
    /// Why Pebble does not answer.
    pub pebble_error: Option<String>,
    /// Where the credential is good for, when seen from beside Pebble.
    pub http_address: Option<String>,
    /// `none`, `absent`, `refused` or `usable`.
    pub secret: &'static str,
    /// Why it is refused.
    pub secret_error: Option<String>,
    /// The secret's username.
    pub username: Option<Username>,
    /// Whether the secret works; absent where there is none or it cannot be told.
    pub in_force: Option<bool>,
    /// All identities of Pebble but markers.
    pub identities: Vec<IdentityStatus>,
}

/// One identity.
#[derive(Debug, Serialize)]
pub struct IdentityStatus {
    /// Its name.
    pub name: String,
    /// Its access.
    pub access: String,
    /// Who wrote it; absent where it is not ours.
    pub owner: Option<Ownership>,
}

impl Status {
    /// Whether all is as the configuration asks.
    pub fn is_good(&self) -> bool {
        self.pebble_error.is_none() && (self.secret == "none" || self.in_force == Some(true))
    }
}

/// Looks at identities and at the secret; changes nothing. Where Pebble has no HTTP address, trying the secret makes it
/// log a security line.
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
    let credential = match settings.secret.as_deref().map(secret::read) {
        None => None,
        Some(Reading::Absent) => {
            status.secret = "absent";
            None
        }
        Some(Reading::Refused(refusal)) => {
            status.secret = "refused";
            status.secret_error = Some(refusal.to_string());
            None
        }
        Some(Reading::Usable(credential)) => {
            status.secret = "usable";
            status.username = Some(credential.username.clone());
            Some(credential)
        }
    };
    let seen = async {
        let info = client.system_info().await?;
        let identities = client.identities().await?;
        Ok::<_, PebbleError>((info, identities))
    };
    let (info, identities) = match seen.await {
        Ok(seen) => seen,
        Err(error) => {
            status.pebble_error = Some(crate::pebble::chain(&error));
            return status;
        }
    };
    status.pebble_version = Some(info.version.to_string());
    status.http_address = info.http_address().map(|address| address.to_string());
    if let Some(credential) = &credential {
        // Over the socket a name that nobody has would be let in as ourselves, which proves nothing wrongly.
        status.in_force = match prove(&client, &info, credential).await {
            Proof::Works => Some(true),
            Proof::Fails => Some(false),
            Proof::Unknown => None,
        };
    }
    status.identities = identities
        .iter()
        .filter(|(name, _)| Marker::parse(name).is_none())
        .map(|(name, info)| IdentityStatus {
            name: name.clone(),
            access: info.access.clone(),
            owner: owner(&identities, name),
        })
        .collect();
    status
}

fn owner(identities: &BTreeMap<String, IdentityInfo>, name: &str) -> Option<Ownership> {
    let username = Username::parse(name).ok()?;
    [Ownership::Secret, Ownership::ByHand]
        .into_iter()
        .find(|ownership| identities.contains_key(&Marker::new(username.clone(), *ownership).name()))
}

async fn prove(client: &Client, info: &SystemInfo, credential: &Credential) -> Proof {
    if let Some(address) = info.http_address() {
        let proof = client.prove_over_http(address, credential).await;
        if proof != Proof::Unknown {
            return proof;
        }
    }
    client.prove_over_socket(credential).await
}

/// What was done to identities.
#[derive(Debug, Serialize)]
pub struct Done {
    /// `created`, `rotated`, `adopted`, `tidied`, `removed`, or `unchanged`.
    pub result: &'static str,
    /// The names that it was done to.
    pub usernames: Vec<String>,
}

/// Sets an identity, unless it works already. It stays until it is removed by hand: the service removes only what came
/// from its secret.
pub async fn set(settings: &config::Pebble, credential: &Credential) -> Result<Done, ByHandError> {
    let client = Client::new(&settings.socket);
    let info = client.system_info().await?;
    if info.version.is_too_old() {
        return Err(ByHandError::Old(info.version.to_string()));
    }
    let username = &credential.username;
    let wanted = Wanted::Present {
        username: username.clone(),
        ownership: Ownership::ByHand,
        adopt: settings.adopt_identity,
    };
    let mut proof = None;
    let mut done = Done {
        result: "unchanged",
        usernames: vec![username.to_string()],
    };
    loop {
        let identities = client.identities().await.map_err(privileged)?;
        if owner(&identities, username.as_str()) == Some(Ownership::Secret) && !settings.adopt_identity {
            return Err(ByHandError::FromSecret(username.clone()));
        }
        match decide_identity(&wanted, &identities, proof) {
            Step::Done => return Ok(done),
            Step::Refuse(Foreign::Unmarked) => return Err(ByHandError::Unmarked(username.clone())),
            Step::Refuse(Foreign::OtherAccess) => return Err(ByHandError::OtherAccess(username.clone())),
            Step::Prove => proof = Some(prove(&client, &info, credential).await),
            Step::Change(change, why) => {
                let password = change.write.is_some().then_some(&credential.password);
                client
                    .change_identities(&info.version, &change, password)
                    .await
                    .map_err(privileged)?;
                proof = Some(prove(&client, &info, credential).await);
                if proof == Some(Proof::Fails) {
                    return Err(ByHandError::Rejected(username.clone()));
                }
                done.result = match why {
                    // Taking over what the secret had named removes only that marker.
                    Why::Renamed => Why::Adopted.as_str(),
                    why => why.as_str(),
                };
            }
        }
    }
}

/// Removes the identity of this name, or all that are ours. One that comes from the mounted secret is put back by the
/// service, which takes it for somebody else's doing.
pub async fn remove(settings: &config::Pebble, name: Option<&str>) -> Result<Done, ByHandError> {
    let client = Client::new(&settings.socket);
    let info = client.system_info().await?;
    let identities = client.identities().await.map_err(privileged)?;
    let mut remove = Vec::new();
    let mut usernames = Vec::new();
    if let Some(name) = name {
        if !identities.contains_key(name) || Marker::parse(name).is_some() {
            return Err(ByHandError::NotThere(name.to_owned()));
        }
        if owner(&identities, name).is_none() && !settings.adopt_identity {
            return Err(ByHandError::NotOurs(name.to_owned()));
        }
    }
    let markers: Vec<(String, Marker)> = identities
        .keys()
        .filter_map(|name| Some((name.clone(), Marker::parse(name)?)))
        .collect();
    for (marker_name, marker) in markers {
        let username = marker.username.as_str();
        if name.is_some_and(|name| name != username) {
            continue;
        }
        remove.push(marker_name);
        // What somebody gave other access since is theirs; it only loses the marker.
        let is_ours = identities
            .get(username)
            .is_some_and(IdentityInfo::is_metrics_only);
        if is_ours && !usernames.iter().any(|seen| seen == username) {
            usernames.push(username.to_owned());
        }
    }
    if let Some(name) = name
        && settings.adopt_identity
        && usernames.is_empty()
    {
        usernames.push(name.to_owned());
    }
    remove.extend(usernames.iter().cloned());
    if remove.is_empty() {
        return Ok(Done {
            result: "unchanged",
            usernames,
        });
    }
    let change = Change {
        remove,
        ..Change::default()
    };
    client
        .change_identities(&info.version, &change, None)
        .await
        .map_err(privileged)?;
    Ok(Done {
        result: "removed",
        usernames,
    })
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
    /// Leaves a service of our name as the plan has it.
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

/// Installs service and checks where the plan lacks them, and starts the service where it does not run. Doing it again
/// changes nothing. With `dry_run` it only tells; without a Pebble it tells everything then.
///
/// A service of our name that is in the plan already is the charm's (or the rock's) and stays as it is. Nothing else is
/// replanned, started or stopped.
pub async fn install(settings: &config::Pebble, port: u16, dry_run: bool) -> Result<Installed, ByHandError> {
    let inputs = Inputs {
        port,
        level: settings.check_level,
        secret: settings.secret.as_deref().map(Path::new),
    };
    let (service, checks) = (Layer::service(inputs), Layer::checks(inputs));
    let client = Client::new(&settings.socket);
    if let Ok(info) = client.system_info().await
        && info.version.is_too_old()
    {
        return Err(ByHandError::Old(info.version.to_string()));
    }
    let plan = match client.plan().await {
        Ok(plan) => plan,
        Err(error) if dry_run => {
            return Ok(Installed {
                tasks: vec![
                    add_layer(SERVICE_LABEL, &service),
                    add_layer(LABEL, &checks),
                    Task::StartService { service: SERVICE },
                ],
                done: false,
                pebble_error: Some(crate::pebble::chain(&error)),
            });
        }
        Err(error) => return Err(privileged(error)),
    };
    let mut tasks = Vec::new();
    let has_service = plan.services.contains_key(SERVICE);
    if has_service {
        tasks.push(Task::KeepService { service: SERVICE });
    } else {
        tasks.push(add_layer(SERVICE_LABEL, &service));
    }
    let wanted = checks.check_meanings();
    if !plan.holds(&wanted) {
        tasks.push(add_layer(LABEL, &checks));
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
    if dry_run {
        return Ok(Installed {
            tasks,
            done: false,
            pebble_error: None,
        });
    }
    for task in &tasks {
        match task {
            Task::KeepService { .. } => {}
            Task::AddLayer { label, .. } => {
                let layer = if *label == LABEL { &checks } else { &service };
                client.add_layer(label, layer).await.map_err(privileged)?;
            }
            Task::StartService { service } => {
                client.start_service(service).await.map_err(privileged)?;
            }
        }
    }
    let plan = client.plan().await.map_err(privileged)?;
    let shadowed: Vec<String> = wanted
        .iter()
        .filter(|(name, check)| plan.checks.get(*name) != Some(check))
        .map(|(name, _)| name.clone())
        .collect();
    if !shadowed.is_empty() {
        return Err(ByHandError::Shadowed(shadowed));
    }
    Ok(Installed {
        tasks,
        done: true,
        pebble_error: None,
    })
}

fn add_layer(label: &'static str, layer: &Layer) -> Task {
    Task::AddLayer {
        label,
        layer: layer.to_yaml(),
    }
}
