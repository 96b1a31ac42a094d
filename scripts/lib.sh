# shellcheck shell=bash
# What the scripts share.

# Where Debian has nginx and HAProxy, and whoever is not root does not look.
PATH=$PATH:/usr/sbin

# The folders of reference, naive and adopted servers that have this file: a new one needs no change here. Frameworks
# and faulty servers fetch and build what they need when they are played.
servers_with() {
    find servers -type d \( -name node_modules -o -name target -o -name build -o -name .venv \
        -o -path servers/frameworks -o -path servers/faulty \) -prune -o -type f -name "$1" -print |
        sed 's,/[^/]*$,,' | sort
}

in_folder() {
    (cd "$1" && shift && "$@")
}
