//! Damaged and hostile files: an error or tensors, no panic, and no more memory than the file's size accounts for.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use common::{archive, dict, float_tensor, golden, named, tensor};
use pretrained::{read_tensors, read_torch, tensor_headers, write_safetensors};
use proptest::prelude::*;
use zip::CompressionMethod::{Deflated, Stored};

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which also knows how much each thread holds.
struct Counting;

fn grown(by: usize) {
    LIVE.with(|live| {
        let now = live.get().saturating_add(by);
        live.set(now);
        PEAK.with(|peak| peak.set(peak.get().max(now)));
    });
}

fn shrunk(by: usize) {
    LIVE.with(|live| live.set(live.get().saturating_sub(by)));
}

// SAFETY: every call is handed on to the system's allocator as it came; the counters are plain cells without a
// destructor, so that touching them allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        shrunk(layout.size());
        // SAFETY: `pointer` came from `System` with this layout; the promises about `size` are the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory `body` held at once on this thread, in bytes.
fn peak_of<T>(body: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    let result = body();
    (result, PEAK.with(Cell::get) - before)
}

/// Reads `bytes` in all ways; the memory may be a multiple of the file, not what the file claims.
fn survives(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a writable folder");
    let allowed = 64 * bytes.len() + (2 << 20);
    let (read, peak) = peak_of(|| read_tensors(&path));
    assert!(
        peak <= allowed,
        "{peak} bytes for a file of {}",
        bytes.len()
    );
    let (headers, peak) = peak_of(|| tensor_headers(&path));
    assert!(
        peak <= allowed,
        "{peak} bytes for the headers of a file of {}",
        bytes.len()
    );
    if let Ok(tensors) = read {
        assert_eq!(tensors.len(), headers.expect("readable, so listable").len());
    }
    if let Err(error) = read_torch(&path, None) {
        assert!(error.to_string().len() < 4000);
    }
}

fn small_safetensors() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x.safetensors");
    let tensors = named(&[
        ("layers.0.weight", tensor(&[1.0; 12], &[3, 4])),
        ("layers.0.bias", tensor(&[1.0; 3], &[3])),
        ("scale", tensor(&[1.0], &[])),
    ]);
    write_safetensors(&path, &tensors).expect("written");
    std::fs::read(path).expect("there")
}

fn small_archive() -> Vec<u8> {
    let root = dict(&[
        (
            "model",
            dict(&[("w", float_tensor("0", 6, &[2, 3], &[3, 1]))]),
        ),
        (
            "optimizer",
            dict(&[("m", float_tensor("0", 6, &[6], &[1]))]),
        ),
    ]);
    archive(&root, &[("0", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])], Stored)
}

/// What happens to files: they break off, bits flip, pieces are lost, moved or overwritten.
#[derive(Debug, Clone)]
enum Damage {
    Truncate(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Word(prop::sample::Index, u32),
    Remove(prop::sample::Index, usize),
    Append(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    let extremes = prop_oneof![Just(0), Just(u32::MAX), Just(0x7fff_ffff), any::<u32>()];
    prop_oneof![
        2 => index().prop_map(Damage::Truncate),
        6 => (index(), 1_u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        3 => (index(), extremes).prop_map(|(at, word)| Damage::Word(at, word)),
        1 => (index(), 1_usize..64).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => prop::collection::vec(any::<u8>(), 1..64).prop_map(Damage::Append),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        match damage {
            Damage::Truncate(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Flip(at, bits) => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Damage::Word(at, word) => {
                let at = at.index(bytes.len());
                bytes
                    .iter_mut()
                    .skip(at)
                    .zip(word.to_le_bytes())
                    .for_each(|(byte, new)| *byte = new);
            }
            Damage::Remove(at, count) => {
                let at = at.index(bytes.len());
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Damage::Append(more) => bytes.extend(more),
        }
    }
    bytes
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    prop::collection::vec(damage(), 1..4)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn damaged_safetensors(damages in damages()) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        survives(folder.path(), "x.safetensors", &damaged(small_safetensors(), &damages));
    }

    #[test]
    fn damaged_archives(damages in damages()) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        survives(folder.path(), "x.pt", &damaged(small_archive(), &damages));
    }

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0_usize..5) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name = ["x.safetensors", "x.pt", "x.bin", "x.index.json", "x"][kind];
        survives(folder.path(), name, &bytes);
    }

    #[test]
    fn arbitrary_pickles(bytes in prop::collection::vec(
        // Opcodes that build values, so that parsing goes beyond the first byte.
        prop_oneof![any::<u8>(), prop::sample::select(b"}]()(tuesR.0q\x85\x86\x89NKXQc".to_vec())], 0..200,
    )) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        survives(folder.path(), "x.pt", &archive(&bytes, &[("0", &[1.0])], Stored));
        survives(folder.path(), "y.pt", &[b"\x80\x02", bytes.as_slice()].concat());
    }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn damaged_published_files(damages in damages(), legacy in any::<bool>()) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name = if legacy { "checkpoint_legacy.pt" } else { "checkpoint_zip.pt" };
        let bytes = std::fs::read(golden(name)).expect("a reference file");
        survives(folder.path(), name, &damaged(bytes, &damages));
    }

    #[test]
    fn damaged_beginnings_of_legacy_files(damages in prop::collection::vec(damage(), 1..3)) {
        // The pickles, where damage matters, are the first few thousand bytes.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes = std::fs::read(golden("checkpoint_legacy.pt")).expect("a reference file");
        let (head, tail) = bytes.split_at(4000);
        let bytes = [damaged(head.to_vec(), &damages).as_slice(), tail].concat();
        survives(folder.path(), "x.pt", &bytes);
    }
}

fn header_file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn headers_that_lie_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x.safetensors");
    let long = |length: u64| [length.to_le_bytes().as_slice(), b"{}"].concat();
    let cases = [
        (
            long(u64::MAX),
            "declares a header of 18446744073709551615 bytes",
        ),
        (
            long(99_000_000),
            "declares a header of 99000000 bytes, but 2 follow",
        ),
        (b"\x02\0\0".to_vec(), "3 bytes are too few"),
        (header_file("{]", 0), "header is damaged"),
        (
            header_file(
                r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#,
                12,
            ),
            "the file holds 12",
        ),
        (
            header_file(
                r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,12]}}"#,
                12,
            ),
            "header is damaged",
        ),
        (
            header_file(
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
                0,
            ),
            "header is damaged",
        ),
        (
            header_file(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                4,
            ),
            "header is damaged",
        ),
        (
            header_file(
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
                2,
            ),
            "`a` is there twice",
        ),
        (
            header_file(
                r#"{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#,
                1,
            ),
            "found F8_E4M3",
        ),
        (
            header_file(
                r#"{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,1]}}"#,
                1,
            ),
            "unknown variant `X9`",
        ),
    ];
    for (bytes, expected) in cases {
        std::fs::write(&path, &bytes).expect("written");
        let (result, peak) = peak_of(|| read_tensors(&path));
        let error = result.expect_err("it lies").to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(peak < 1 << 20, "{peak} bytes for {expected}");
    }
}

#[test]
fn archives_that_would_unpack_to_much_more_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x.pt");
    let refused = |bytes: &[u8], expected: &str| {
        std::fs::write(&path, bytes).expect("written");
        let (result, peak) = peak_of(|| read_tensors(&path));
        let error = result.expect_err("a bomb").to_string();
        assert!(error.contains(expected), "{error}");
        assert!(
            peak < 4 << 20,
            "{peak} bytes for {} ({expected})",
            bytes.len()
        );
    };

    // One stored element, seen as four gigabytes.
    let view = dict(&[("w", float_tensor("0", 1, &[1 << 30], &[0]))]);
    refused(
        &archive(&view, &[("0", &[1.0])], Stored),
        "would unpack to far more",
    );
    // Compressed zeros.
    let zeros = vec![0.0; 8 << 20];
    let plain = dict(&[("w", float_tensor("0", 8 << 20, &[8 << 20], &[1]))]);
    refused(
        &archive(&plain, &[("0", &zeros)], Deflated),
        "would unpack to",
    );
    // A long pickle of nothing.
    refused(
        &archive(&vec![b'N'; 33 << 20], &[], Deflated),
        "`data.pkl` has",
    );
    // More elements than are stored.
    let short = dict(&[("w", float_tensor("0", 100, &[100], &[1]))]);
    refused(
        &archive(&short, &[("0", &[1.0])], Stored),
        "damaged or broken off",
    );
}
