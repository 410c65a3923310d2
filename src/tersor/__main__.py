"""`python -m tersor`, and `accelerate launch -m tersor` for several processes."""

from tersor.cli.main import main

if __name__ == "__main__":
    main()
