//! Generated from wit/: one world for each kind.

macro_rules! drive {
    ($world:literal) => {
        wit_bindgen::generate!({
            path: [
                "../../../../wit/deps/config",
                "../../../../wit/deps/logging",
                "../../../../wit/deps/messaging",
                "../../../../wit/step",
                "../../../../wit/stage",
            ],
            world: $world,
            // A message is lowered from the batch's own bytes, without a copy of its parts.
            ownership: Borrowing { duplicate_if_necessary: true },
            generate_all,
        });
    };
}

#[cfg(feature = "accumulate")]
drive!("millrace:stage/drive-accumulate");
#[cfg(feature = "branch")]
drive!("millrace:stage/drive-branch");
#[cfg(feature = "keyed")]
drive!("millrace:stage/drive-keyed");
#[cfg(feature = "delay")]
drive!("millrace:stage/drive-delay");
#[cfg(feature = "enrich")]
drive!("millrace:stage/drive-enrich");
#[cfg(feature = "filter")]
drive!("millrace:stage/drive-filter");
#[cfg(feature = "flat-map")]
drive!("millrace:stage/drive-flat-map");
#[cfg(feature = "map")]
drive!("millrace:stage/drive-map");

use super::Drive;
export!(Drive);
