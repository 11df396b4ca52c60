//! Drafts of a tenant that a real server has.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod bed;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bed::Bed;
use millrace_lattice_config::drafts::{DRAFTS_MAX, DraftError, Drafts, Over, TEXT_MAX};
use millrace_lattice_config::now;
use millrace_lattice_config::tenants::{TenantError, Tenants};

/// The same drafts at another time.
fn at(tenants: &Tenants, clock: fn() -> i64) -> Drafts {
    Drafts::new(&tenants.clone().with_clock(clock))
}

#[tokio::test]
async fn a_draft_is_saved_over_what_was_seen_and_nothing_else() {
    let bed = Bed::new();
    bed.add("acme").await;
    let drafts = Drafts::new(&bed.tenants);
    let save = |text: &str, over: Over<'_>, by: &str| drafts.save("acme", "press", text, over, by);
    assert!(drafts.list("acme").unwrap().is_empty());
    let text = "a: ü\r\n\n# \0 kept as it is\n";
    let (first, noted) = save(text, Over::Nothing, "anna").unwrap();
    assert!(noted);
    assert_eq!((first.revision, first.by.as_str()), (1, "anna"));
    let got = drafts.get("acme", "press").unwrap();
    assert_eq!((got.text.as_str(), &got.saved), (text, &first));
    // Somebody else has saved it meanwhile.
    let (second, noted) = save("b", Over::Tag(&first.tag()), "otto").unwrap();
    assert!(noted);
    let old = first.tag();
    for over in [Over::Tag(&old), Over::Tag(""), Over::Nothing] {
        let refused = save("c", over, "anna").unwrap_err();
        assert!(matches!(&refused, DraftError::Changed(Some(saved)) if *saved == second));
        assert_eq!(refused.to_string(), "otto has saved it since, as revision 2");
    }
    let (third, noted) = save("c", Over::Tag(&second.tag()), "otto").unwrap();
    assert!(!noted, "otto goes on");
    // He is written down again after an hour, and when the clock was set back.
    let (fourth, noted) = at(&bed.tenants, || now() + 3601)
        .save("acme", "press", "d", Over::Tag(&third.tag()), "otto")
        .unwrap();
    assert!(noted);
    let (fifth, noted) = save("e", Over::Tag(&fourth.tag()), "otto").unwrap();
    assert!(noted);
    let gone = drafts.delete("acme", "press", &third.tag());
    assert!(matches!(gone, Err(DraftError::Changed(Some(_)))));
    drafts.delete("acme", "press", &fifth.tag()).unwrap();
    assert!(matches!(drafts.get("acme", "press"), Err(DraftError::Unknown(_))));
    let gone = drafts.delete("acme", "press", &fifth.tag());
    assert!(matches!(gone, Err(DraftError::Unknown(_))));
    let refused = save("f", Over::Tag(&fifth.tag()), "anna").unwrap_err();
    assert!(matches!(refused, DraftError::Changed(None)), "{refused}");
    // One of the same name and number is told from it.
    let (again, _) = save("f", Over::Nothing, "anna").unwrap();
    assert_eq!(again.revision, first.revision);
    assert_ne!(again.tag(), first.tag());
}

#[tokio::test]
async fn of_two_who_save_at_once_one_is_told() {
    let bed = Bed::new();
    bed.add("acme").await;
    let drafts = Drafts::new(&bed.tenants);
    let (mut seen, _) = drafts.save("acme", "press", "", Over::Nothing, "a").unwrap();
    for round in 0..20 {
        let tag = seen.tag();
        let save = |by: &'static str| {
            let (drafts, tag) = (drafts.clone(), tag.clone());
            std::thread::spawn(move || {
                drafts.save("acme", "press", &format!("{by} {round}"), Over::Tag(&tag), by)
            })
        };
        let done = [save("anna"), save("otto")].map(|thread| thread.join().unwrap());
        let saved: Vec<_> = done.iter().flatten().map(|(saved, _)| saved.clone()).collect();
        assert_eq!(saved.len(), 1, "{done:?}");
        seen = saved[0].clone();
        assert_eq!(drafts.get("acme", "press").unwrap().saved, seen);
        assert_eq!(seen.revision, round + 2);
    }
}

#[tokio::test]
async fn what_is_odd_or_too_much_is_refused_and_a_damaged_file_is_no_end() {
    let bed = Bed::new();
    let record = bed.add("acme").await;
    let drafts = Drafts::new(&bed.tenants);
    let save = |name: &str, text: &str| drafts.save("acme", name, text, Over::Nothing, "anna");
    for odd in ["", "A", "../x", "a/b", "a.b", "a\0", &"a".repeat(41)] {
        assert!(matches!(save(odd, ""), Err(DraftError::Name(_))), "{odd:?}");
        assert!(matches!(drafts.get("acme", odd), Err(DraftError::Name(_))), "{odd:?}");
        assert!(matches!(drafts.delete("acme", odd, ""), Err(DraftError::Name(_))), "{odd:?}");
    }
    let long = "x".repeat(TEXT_MAX + 1);
    assert!(matches!(save("long", &long), Err(DraftError::TooLong(_))));
    save("long", &long[1..]).unwrap();
    assert_eq!(drafts.get("acme", "long").unwrap().text.len(), TEXT_MAX);
    let other = drafts.save("beta", "press", "", Over::Nothing, "anna");
    assert!(matches!(other, Err(DraftError::Tenant(TenantError::Unknown(_)))));
    // For nobody else on the machine.
    let folder = bed.tenants.folder("acme").unwrap().join("drafts");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    // What is no draft is replaced by who says that it is a new one, and keeps no list from being read.
    for damage in [&b"no json\ntext"[..], b"", b"{}\n", b"\xff\n"] {
        let path = folder.join("press.draft");
        fs::write(&path, damage).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(drafts.get("acme", "press"), Err(DraftError::Damaged { .. })));
        assert_eq!(drafts.list("acme").unwrap().len(), 1);
        save("press", "new").unwrap();
        assert_eq!(drafts.get("acme", "press").unwrap().text, "new");
    }
    // No more than so many.
    for number in drafts.list("acme").unwrap().len()..DRAFTS_MAX {
        save(&format!("p{number}"), "").unwrap();
    }
    assert!(matches!(save("one-more", ""), Err(DraftError::TooMany)));
    assert_eq!(drafts.list("acme").unwrap().len(), DRAFTS_MAX);
    // Of a tenant that is suspended they are there, and stay as they are; with the tenant they go.
    bed.tenants.suspend("acme").await.unwrap();
    let (_, seen) = drafts.list("acme").unwrap().remove(0);
    let refused = drafts.delete("acme", "long", &seen.tag());
    assert!(matches!(refused, Err(DraftError::Tenant(TenantError::State { .. }))));
    assert!(drafts.get("acme", "press").is_ok());
    bed.tenants.remove("acme", Duration::ZERO).await.unwrap();
    bed.tenants.purge(&record.name).await.unwrap();
    assert!(matches!(save("press", ""), Err(DraftError::Tenant(TenantError::Unknown(_)))));
    assert!(!folder.exists());
}
