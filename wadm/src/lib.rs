//! From a plan to a running application.
//!
//! - [`manifest`]: a plan and its artifacts as a plain wadm manifest, which `wash app deploy` accepts as well;
//! - [`applications`]: deploying it, knowing when it runs, taking it down, all through wadm's API;
//! - [`stages`]: where the stages of a deployed pipeline are;
//! - [`keeper`]: what wadm has lost sight of is asked for again;
//! - [`rollout`], [`watcher`]: a new version is judged while it takes over, and rolled back by itself;
//! - [`status`]: one picture of a pipeline from what wadm wants, what hosts run and what providers see.

pub mod applications;
pub mod keeper;
pub mod manifest;
pub mod rollout;
pub mod stages;
pub mod status;
pub mod watcher;

pub use applications::{Applications, Deployed, Deployment, ProviderOnLattice, WadmError};
pub use manifest::{Artifact, ManifestError, manifest, provider_manifest};
pub use rollout::{Rollout, RolloutState, Rollouts, StageCount};
pub use stages::{DeployedStage, images};
pub use status::{PipelineStatus, StageStatus};
pub use wadm_types::Manifest;
pub use watcher::Watcher;
