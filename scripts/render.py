from physmodjax.cli.render import main

main()
