//! The embedded emoji.

use datasets::images::emoji;
use std::collections::HashSet;

#[test]
fn emoji_are_rasters_of_3072_bytes() {
    let emoji = emoji().unwrap();
    let all: Vec<_> = emoji
        .train
        .iter()
        .chain(&emoji.valid)
        .chain(&emoji.test)
        .collect();
    assert_eq!(all.len(), 1682);
    assert_eq!(emoji.classes.len(), 8);
    assert!(emoji.test.len() > 250 && emoji.valid.len() > 120);
    let mut pictures = HashSet::new();
    for image in &all {
        assert_eq!(image.pixels.len(), 3072);
        assert!(usize::from(image.label) < emoji.classes.len());
        assert!(!image.caption.is_empty());
        // Something is drawn, and not everywhere.
        let white = image
            .pixels
            .chunks_exact(3)
            .filter(|p| **p == [255; 3])
            .count();
        assert!(
            (1..1024).contains(&white),
            "{} has {white} white pixels",
            image.caption
        );
        pictures.insert(&image.pixels);
    }
    assert!(
        pictures.len() > 1600,
        "{} different pictures",
        pictures.len()
    );
    let sequences = emoji.sequences();
    assert_eq!((sequences.longest(), sequences.vocab_size), (3072, 256));
}
