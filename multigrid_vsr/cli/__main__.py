from multigrid_vsr.cli import main

main()
