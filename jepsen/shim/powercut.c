/* powercut FOLDER: from this instant nothing more reaches the disk of the file system that FOLDER lies in, and what the
 * disk had not been made to keep is lost when it is mounted again. */

#include <fcntl.h>
#include <linux/types.h>
#include <stdio.h>
#include <sys/ioctl.h>

#define FS_IOC_SHUTDOWN _IOR('X', 125, __u32)
#define WITHOUT_LOG_FLUSH 2

int main(int count, char **words) {
    if (count != 2) {
        fprintf(stderr, "usage: powercut FOLDER\n");
        return 2;
    }
    int folder = open(words[1], O_RDONLY | O_DIRECTORY);
    if (folder < 0) {
        perror(words[1]);
        return 1;
    }
    __u32 how = WITHOUT_LOG_FLUSH;
    if (ioctl(folder, FS_IOC_SHUTDOWN, &how) != 0) {
        perror("FS_IOC_SHUTDOWN");
        return 1;
    }
    return 0;
}
