//! The layout of PG-19: folders of books with their list beside them.

use std::fs;

use datasets::{CorpusSpec, TextFormat, load, pg19};

#[test]
fn books_are_documents_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let books = [
        ("train", &[10, 2, 33][..]),
        ("validation", &[44]),
        ("test", &[5, 66]),
    ];
    for (split, ids) in books {
        fs::create_dir(dir.path().join(split)).unwrap();
        for id in ids {
            let text = format!("the text of book {id}\n");
            fs::write(dir.path().join(split).join(format!("{id}.txt")), text).unwrap();
        }
    }
    let list = "10,\"A Title, with a comma\",1902,http://a/10\n2,Another,,http://a/2\n33,Third,1850.0,http://a/33\n";
    fs::write(dir.path().join("metadata.csv"), list).unwrap();

    let spec = CorpusSpec {
        all_bytes: Some(true),
        ..CorpusSpec::at(dir.path(), TextFormat::Bytes)
    };
    let corpus = load(&spec, dir.path()).unwrap();
    let text = |split: &datasets::Split| corpus.vocabulary.decode(&split.tokens).unwrap();
    // One document each, in the order of the files' names; the list is none of them.
    assert_eq!(corpus.train.documents[..], [0, 20, 39]);
    assert_eq!(
        text(&corpus.train),
        "the text of book 10\nthe text of book 2\nthe text of book 33\n"
    );
    assert_eq!(
        (corpus.valid.documents.len(), corpus.test.documents.len()),
        (1, 2)
    );

    let books = pg19::books(dir.path()).unwrap();
    assert_eq!(books.len(), 3);
    assert_eq!(
        (books[0].id, books[0].title.as_str()),
        (10, "A Title, with a comma")
    );
    assert_eq!(
        books.iter().map(|book| book.year).collect::<Vec<_>>(),
        [Some(1902), None, Some(1850)]
    );

    for (list, part) in [
        ("_id,title,year,url\nx,T,1900,u\n", "metadata.csv:2: the id"),
        ("1,T,1900,u\n2,T,soon,u\n", "metadata.csv:2: the year"),
        ("1,T\n", "metadata.csv:1: expected"),
    ] {
        fs::write(dir.path().join("metadata.csv"), list).unwrap();
        let message = pg19::books(dir.path()).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}
