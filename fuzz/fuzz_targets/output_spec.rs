//! What may stand behind `-o`: the first line of the input. The rest is what a peer would like to be
//! called.
//!
//! * Nothing panics, and what makes no sense is refused in one sentence.
//! * A place is the same place with any format named in front of it.
//! * Whatever a peer is called, a path in braces is filled in to as many names as it was written
//!   with, each plain and no longer than a name may be: below the folder that the user named.

#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use wiretape::cli::WantedOutput;
use wiretape::codec::Format;
use wiretape::output::PlaceSpec;
use wiretape::output::template::{Template, Values};
use wiretape::record::{ConnId, Direction, Endpoints, RunId, WallTime};

const FORMATS: [(&str, Format); 4] = [
    ("text", Format::Text),
    ("hex", Format::Hex),
    ("json", Format::Json),
    ("raw", Format::Raw(Direction::In)),
];

/// Bytes of a file name at most, on every file system of Linux (`NAME_MAX` of limits.h).
const LONGEST_NAME: usize = 255;

fuzz_target!(|input: &str| {
    let (text, peer) = input.split_once('\n').unwrap_or((input, ""));
    let wanted: WantedOutput = match text.parse() {
        Ok(wanted) => wanted,
        Err(error) => {
            assert!(!error.to_string().contains('\n'));
            return;
        }
    };
    let path = match &wanted.place {
        PlaceSpec::Stdout => "-".to_owned(),
        PlaceSpec::File(_) => wanted.place.to_string(),
        PlaceSpec::Template(template) => {
            check_template(template, peer);
            template.to_string()
        }
    };
    assert!(text.ends_with(&path));
    for (name, format) in FORMATS {
        let named = format!("{name}:{path}").parse();
        assert_eq!(
            named,
            Ok(WantedOutput {
                format,
                ..wanted.clone()
            })
        );
    }
});

fn check_template(template: &Template, peer: &str) {
    let endpoints = Endpoints {
        conn: ConnId(u64::MAX),
        peer: peer.into(),
        local: peer.into(),
        target: None,
    };
    for endpoints in [None, Some(&endpoints)] {
        let below = template.expand(&Values {
            run: RunId(u64::MAX),
            wall: WallTime::from_unix_micros(u64::MAX),
            endpoints,
        });
        let mut names = 0;
        for component in below.components() {
            let Component::Normal(name) = component else {
                panic!("{} leads elsewhere", below.display());
            };
            assert!(name.len() <= LONGEST_NAME);
            names += 1;
        }
        let written = template.to_string();
        let written = Path::new(&written).components();
        let written = written.filter(|component| *component != Component::CurDir);
        assert_eq!(
            template.folder().components().count() + names,
            written.count()
        );
    }
}
