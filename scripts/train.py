from physmodjax.cli.train import main

main()
