"""`python -m manual`: writes all that is made of the code, and says what has changed."""

from pathlib import Path

from manual import files

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Write what differs."""
    for name, text in files().items():
        path = ROOT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(name)


if __name__ == "__main__":
    main()
